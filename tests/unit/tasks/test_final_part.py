"""Where the final answer stands: after thinking, between answer tags, before a question that the model asks itself."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.tasks import AnswerKind, Question, grade
from latentmas_ray.tasks.grading.final_part import final_part, is_answer_mark, new_question_at
from latentmas_ray.tasks.grading.number import extract_number
from latentmas_ray.tasks.grading.thinking import strip_thinking, without_thinking

EGGS = "Nine eggs are sold at 2 dollars each. How many dollars does she get?"


def make(kind: AnswerKind, gold: str, question: str = EGGS, **record: object) -> Question:
    return Question(id="1", question=question, kind=kind, gold=gold, record=record)


MARKS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<Thought>", "</Thought>"),
    ("<think lang='en'>\n", "\n</think>\n"),
    ("<reasoning>", "</reasoning>\n"),
    ("<reflection>", "</reflection>"),
    ("<scratchpad>\n", "</scratchpad>\n"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<inner_monologue>", "</inner_monologue>"),
    ("<thinking_process>", "</thinking_process>"),
    ("<start_working_out>", "<end_working_out>"),
    ("[THINK]", "[/THINK]"),
    ("[think]", "[/think]"),
    ("[REASONING]", "[/REASONING]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n<|begin_of_solution|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|thinking_start|>", "<|thinking_end|>"),
    ("<|think|>", "<|/think|>"),
    ("<think>", "</think><response>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>commentary to=x<|message|>", "<|channel|>final <|constrain|>text<|message|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|im_start|>think\n", "<|im_start|>answer\n"),
    ("Here is my thought process:\n", "\nHere is my response:\n"),
    ("analysisWe add. ", "assistantfinal"),
]


@pytest.mark.parametrize(("opening", "closing"), MARKS)
def test_a_block_of_thinking_is_no_answer(opening: str, closing: str) -> None:
    thought = "At first sight the answer is 9, or \\boxed{9}. #### 9"
    assert extract_number(f"{opening}{thought}{closing}It is 12 in all.") == "12"
    assert extract_number(f"{opening}{thought}") is None, "an unclosed block has no answer"
    if not opening.startswith(("Here", "analysis", "<|im", "<|channel>")):
        assert extract_number(f"{thought}{closing}It is 12 in all.") == "12", "the opening mark may be in the prompt"


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<thinking>9<reflection>8</reflection>7", ""),  # the outer block is not closed
        ("<thinking>9<reflection>8</reflection>7</thinking>12", "12"),
        ("<think>9</thinking>12", "12"),
        ("12. The tag `<think>` begins it.", "12. The tag `<think>` begins it."),
        ('12, without "<think>" and "</think>" around it', '12, without "<think>" and "</think>" around it'),
        ("<think/>12", "<think/>12"),
        ("[REASONING]\nWe add 9.\n[RESULT]\n12", "[RESULT]\n12"),  # headings
        ("a < b and thinking > 3", "a < b and thinking > 3"),
        ("<|channel|>analysis<|message|>9<|end|>", ""),
        ("<|channel|>final<|message|>12<|return|>", "12"),
        ("Analysis: it is 12", "Analysis: it is 12"),
        ("Here is my response: 12", "Here is my response: 12"),
    ],
)
def test_what_is_thinking_and_what_is_not(text: str, rest: str) -> None:
    assert strip_thinking(text) == rest


def test_a_program_may_handle_such_marks_itself() -> None:
    code = (
        "import re\ndef clean(s):\n    s = re.sub(r'<think>.*?</think>', '', s)\n    return s.split('</think>')[-1]\n"
    )
    assert without_thinking(code, is_code=True) == code
    assert without_thinking(f"<think>x = 0</think>{code}", is_code=True) == code


TOKENS = [mark.strip() for pair in MARKS[:22] for mark in pair if "\n<" not in mark and "><" not in mark]


@pytest.mark.parametrize("token", [*TOKENS, "<|channel|>", "<|message|>", "<|im_start|>", "<answer>", "<|end_of_box|>"])
def test_the_marks_are_known_as_tokens(token: str) -> None:
    assert is_answer_mark(token)


@pytest.mark.parametrize("token", ["<s>", "</s>", "<|im_end|>", "<|eot_id|>", "<unk>", "<pad>", "think", "12"])
def test_other_tokens_are_no_marks(token: str) -> None:
    assert not is_answer_mark(token)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("<reasoning>It seems to be 9.</reasoning>\n<answer>\n12\n</answer>", "12"),
        ("<answer>12</answer> (checked in 3 ways)", "12"),
        ("<answer>9</answer> No. <answer>12</answer> 3", "12"),
        ("<ANSWER type='int'>12</ANSWER>\nin 3 steps", "12"),
        ("<think>9</think><answer>12", "12"),  # not closed
        ("12</answer>", "12"),  # opened in the prompt
        ("<final_answer>12 eggs</final_answer> 3 ways", "12"),
        ("<solution>3 x 4 makes <answer>12</answer></solution> 3", "12"),
        ("<SOLUTION>12</SOLUTION>\n3 ways", "12"),
        ("[ANSWER]12[/ANSWER] in 3 ways", "12"),
        ("<|begin_of_box|>12<|end_of_box|> in 3 ways", "12"),
        ("<answer>12 (checked in 3 ways)</answer>", "12"),
        ("<answer>3 x 4 = 12</answer>", "12"),
        ("<answer>The answer is 12, found in 3 ways.</answer>", "12"),
        ("<answer>12. I checked 3 times.</answer>", "12"),
        ("<answer>She has 3 rows.\nSo there are 12 eggs.</answer>", "12"),
        ("<answer>\\boxed{12}</answer> 3", "12"),
        ("<answer>3 rows of 4 give 12</answer>", "3 rows of 4 give 12"),  # it may be 3 or 12
        ("<answer>twelve</answer> 3", "twelve"),
        ("The answer is 9? <answer></answer>", None),
        ("Perhaps 9. <answer>", None),
        ("<think>12 <answer>12</answer>", None),
        ("I put it into `<answer>` tags. The answer is 12.", "12"),
    ],
)
def test_the_last_answer_tag_is_the_answer(answer: str, number: str | None) -> None:
    assert extract_number(answer) == number


@pytest.mark.parametrize(
    ("kind", "gold", "answer"),
    [
        ("choice", "C", "<answer>C</answer> since A is too small"),
        ("choice", "C", "A or B?\n<answer>\nC. Berlin\n</answer>"),
        ("choice", "C", "<think>B</think><answer>(c)"),
        ("text", "Paris", "I think of Rome.\n<answer>Paris</answer>\nThat is all."),
        ("text", "Paris", "<reasoning>Rome?</reasoning><answer>\n  paris.\n</answer>"),
        ("math", "x+1", "x+2? <answer>$x+1$</answer>, not x+3"),
    ],
)
def test_answer_tags_of_other_kinds(kind: AnswerKind, gold: str, answer: str) -> None:
    assert grade(make(kind, gold), answer).correct is True


RUN_ON = [
    "\n\nQuestion: A robe takes 3 bolts of blue cloth. How many bolts?\nAnswer: {}",
    "\n\nQ: Ann has 4 apples and gets 3. How many has she?\nA: {}",
    "\nQ. Ann has 4 apples. How many has she?\nThe answer is {}.",
    "\n\n**Question:** A train runs for 3 hours. How far?\n**Answer:** {}",
    "\n\nProblem: A train runs for 3 hours. How far?\n#### {}",
    "\n\n### Problem 7\nA train runs for 3 hours. How far?\n#### {}",
    "\n\nQuestion 2: A train runs for 3 hours. How far?\nThe answer is {}.",
    "\n\nExercise 3. A train runs for 3 hours. How far?\nAnswer: {}",
    "\n\nNext question: A train runs for 3 hours. How far?\nAnswer: {}",
    "\n\nHere is another problem: a train runs for 3 hours. How far?\nAnswer: {}",
    "\n\nExample 2: A train runs for 3 hours.\nAnswer: {}",
    "\n\nHuman: And a train in 3 hours?\n\nAssistant: The answer is {}.",
    "\nUser: And a train in 3 hours?\nAssistant: Answer: {}",
    "\n\n### Instruction:\nSay how far a train runs.\n\n### Response:\nThe answer is {}.",
    "<|im_start|>user\nA train?<|im_end|>\n<|im_start|>assistant\nThe answer is {}.",
    "\n[INST] A train? [/INST] The answer is {}.",
    "\n\nFrage: Ein Zug fährt 3 Stunden. Wie weit?\nAntwort: {}",
    "\n\n问题：火车走了三个小时，多远？\n答案：{}",
    "\n\nA robe takes 2 bolts of blue cloth and half as much white. How many bolts in all?\n#### {}",  # no mark
]


@pytest.mark.parametrize("more", RUN_ON)
def test_the_first_answer_counts_where_the_model_asks_itself_more(more: str) -> None:
    if more.startswith("<|im"):
        more = "\n" + more
    for first in ("9 x 2 = 18.\n#### 18", "So the answer is 18.", "It is \\boxed{18}."):
        assert extract_number(first + more.format("7"), EGGS) == "18"
    if "#### {}" not in more or "Problem" in more:
        assert extract_number("She gets 9 x 2 = 18" + more.format("7"), EGGS) == "18"


@pytest.mark.parametrize("more", RUN_ON[:3])
def test_so_it_does_for_every_kind(more: str) -> None:
    assert grade(make("text", "Paris"), "Answer: Paris" + more.format("Rome")).correct is True
    assert grade(make("choice", "C", choices=["x", "y", "z"]), "Answer: C" + more.format("B")).correct is True
    assert grade(make("math", "x+1"), "\\boxed{x+1}" + more.format("\\boxed{x}")).correct is True


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        # It repeats what was asked, at the beginning or later.
        ("Question: Nine eggs are sold at 2 dollars each. How many dollars does she get?\nAnswer: 18", "18"),
        ("Let me see.\nQuestion: Nine eggs sold at 2 dollars each: how many dollars?\nAnswer: 18", "18"),
        ("**Problem:** nine eggs at 2 dollars each.\n**Solution:** 9 x 2 = 18", "18"),
        # It divides it into steps.
        ("Question 1: How many eggs are there? 9\nQuestion 2: What does one cost? 2\nThe answer is 18.", "18"),
        ("Example 1: one egg costs 2.\nExample 2: two cost 4.\nThe answer is 18.", "18"),
        # It corrects itself.
        ("#### 17\nNo, that is wrong.\n#### 18", "18"),
        ("The answer is 17.\n\nWait, is that right? There are nine eggs.\n\nThe answer is 18.", "18"),
        ("The answer is 17.\n\nLet me check: does she really get two dollars for each?\n\nThe answer is 18.", "18"),
        # It repeats the question after its answer, and answers again.
        ("The answer is 18.\n\nQuestion: Nine eggs are sold at 2 dollars each. How many dollars?\nAnswer: 20", "18"),
        # It asks something else before it has answered.
        ("Question: A train runs for 3 hours. How far?\nAnswer: 7", None),
    ],
)
def test_what_is_a_new_question(answer: str, number: str | None) -> None:
    assert extract_number(answer, EGGS) == number


@given(st.text(max_size=300) | st.text(alphabet="<>/answerthinkQ:[]|\n# 12?", max_size=300))
def test_nothing_raises(text: str) -> None:
    final_part(text, EGGS)
    without_thinking(text, is_code=True)
    assert (new_question_at(text) or 0) <= len(text)


@pytest.mark.parametrize(
    "unit",
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "\nQ:",
        "\nQuestion: eggs?\n",
        "#### 1\n\nWhat?",
        "<|channel|>",
        "`<think>`",
    ],
)
def test_hostile_texts_take_linear_time(unit: str) -> None:
    text = unit * 20_000
    start = time.process_time()
    final_part(text, EGGS)
    without_thinking(text, is_code=True)
    assert time.process_time() - start < 5  # milliseconds where it is linear, minutes where it is not


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("<think>9</think>8<think>7</think>12", "12"),  # and not 812
        ("<unused94>thought\nIt is 9.<unused95>12", "12"),
        ("Answer: 18<|endoftext|>The answer is 4", "18"),
        ("It is 18</s> 4", "18"),
        ("<result>12</result> in 3 ways", "12"),
        ("<output>12</output> in 3 ways", "12"),
    ],
)
def test_other_marks_around_an_answer(answer: str, number: str) -> None:
    assert extract_number(answer) == number
