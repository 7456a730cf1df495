"""A model without a chat template ends where it asks itself a new question, in batches too."""

import pytest

from latentmas_ray.engine.run_on import RunOnCheck
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.presets import tiny_tokenizer

EGGS = "Nine eggs are sold at 2 dollars each. How many dollars does she get?"


def chat_of(*, with_template: bool = False) -> ChatTokenizer:
    tokenizer = tiny_tokenizer()
    if not with_template:
        tokenizer.chat_template = None
    return ChatTokenizer(tokenizer, "base")


def written(text: str, chat: ChatTokenizer, asked: str = EGGS) -> str:
    """Return what is kept of a text that is written token by token."""
    check = RunOnCheck(chat, [asked])
    output: list[int] = []
    for token in chat.tokenizer(text, add_special_tokens=False)["input_ids"]:
        output.append(token)
        if (num_kept := check.num_kept(0, output)) is not None:
            return chat.decode(output[:num_kept])
    return chat.decode(output)


@pytest.mark.parametrize(
    "more",
    [
        "\n\nQuestion: A robe takes 3 bolts of cloth. How many bolts? 3\n",
        "\nQ: Ann has 4 apples and gets 3. How many has she?\nA: 7",
        "\n\nProblem 2: A train runs for three hours. How far?",
        "\n\n### Instruction:\nSay how far a train runs.\n",
        "\nHuman: And what of a train?\n",
    ],
)
def test_the_text_ends_before_a_new_question(more: str) -> None:
    for answer in ("9 x 2 = 18.\n#### 18", "The answer is 18."):
        assert written(answer + more + " and so on", chat_of()).rstrip() == answer
        assert written(answer + more, chat_of(with_template=True)) == answer + more


@pytest.mark.parametrize(
    "text",
    [
        "Question: Nine eggs are sold at 2 dollars each. How many dollars does she get?\nAnswer: 18\n",
        "Let me see.\nQuestion: Nine eggs sold at 2 dollars each: how many dollars?\nAnswer: 18\n",
        "Question 1: eggs? 9\nQuestion 2: dollars? 18\n",
        "Is it 18? Yes.\n18\n",
        "18\n\nQuestion:",  # not asked yet
    ],
)
def test_other_texts_go_on(text: str) -> None:
    assert written(text, chat_of()) == text
