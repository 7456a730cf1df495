"""Which questions count as trained: those of the embedded model's tasks, with their words and numbers."""

import warnings

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.errors import UntrainedQuestionWarning
from latentmas_ray.tasks.chain import chain_questions
from latentmas_ray.tasks.names import Split
from latentmas_ray.tasks.notes import notes_questions
from latentmas_ray.tasks.question import Question
from latentmas_ray.tasks.trained import (
    EXAMPLE_OF_CHAIN,
    EXAMPLE_OF_NOTES,
    trained_task,
    warn_of_untrained,
    with_notes,
)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_generated_question_is_recognised(split: Split) -> None:
    assert {trained_task(question.question) for question in chain_questions(300, split=split)} == {"chain"}
    for question in notes_questions(300, split=split):
        assert trained_task(" ".join([*question.record["notes"], question.question])) == "notes"
        assert trained_task(question.question, has_memory=True) == "notes"
        assert trained_task(question.question) is None  # its facts are missing


def test_examples_are_recognised_with_any_spacing() -> None:
    assert trained_task(EXAMPLE_OF_CHAIN) == "chain"
    assert trained_task(EXAMPLE_OF_NOTES) == "notes"
    assert trained_task("  " + EXAMPLE_OF_NOTES.replace(". ", ".\n") + "\n") == "notes"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A farmer has 12 hens and buys 7 more. How many has he?",
        "Nadia has 5 beads. How many beads has Nadia now?",
        "Nadia has 5 beads. Then Nadia finds 3 more. How many keys has Nadia now?",
        "Nadia has 5 beads. Then Tom finds 3 more. How many beads has Nadia now?",
        "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Tom now?",
        "Nadia has 5 marbles. Then Nadia finds 3 more. How many marbles has Nadia now?",
        "Alice has 5 beads. Then Alice finds 3 more. How many beads has Alice now?",
        "Nadia has 5 beads. Then Nadia eats 3. How many beads has Nadia now?",
        "Nadia has 13 beads. Then Nadia finds 3 more. How many beads has Nadia now?",
        "Nadia has 5 beads. Then Nadia finds 10 more. How many beads has Nadia now?",
        "Nadia has 5 beads. Then Nadia loses 5. How many beads has Nadia now?",
        f"Nadia has 5 beads.{' Then Nadia finds 3 more.' * 4} How many beads has Nadia now?",
        "Tom has 7 keys. Uma has 4 keys. How many keys has Tom?",
        "Tom has 7 keys. Uma has 4 keys. Zoe has 9 keys. How many keys has Nick?",
        "Tom has 7 keys. Uma has 4 keys. Zoe has 9 keys. How many keys have Tom and Tom together?",
        "Tom has 7 keys. Uma has 4 keys. Zoe has 9 keys. How many cups has Tom?",
        "Tom has 7 keys. Uma has 4 keys. Zoe has 9 cups. How many keys has Tom?",
        "Tom has 7 keys. Uma has 4 keys. Tom has 9 keys. How many keys has Tom?",
        "Tom has 7 keys. Uma has 4 keys. Zoe has 21 keys. How many keys has Tom?",
    ],
)
def test_other_questions_are_not(text: str) -> None:
    assert trained_task(text) is None


def test_facts_are_split_among_the_experts_in_order() -> None:
    text = "Tom has 7 keys. Uma has 4 keys. Zoe has 9 keys. Pia has 2 keys. Sam has 6 keys. How many keys has Pia?"
    assert with_notes(text) == {
        "question": "How many keys has Pia?",
        "notes": ["Tom has 7 keys.", "Uma has 4 keys. Zoe has 9 keys.", "Pia has 2 keys. Sam has 6 keys."],
    }
    with pytest.raises(ValueError, match="not a question about notes"):
        with_notes(EXAMPLE_OF_CHAIN)


def test_untrained_questions_give_one_warning() -> None:
    known = [*chain_questions(2), *notes_questions(2)]
    other = Question(id="1", question="What is 2+2?", kind="text", gold=None, record={})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_untrained("tiny", known)
        warn_of_untrained("Qwen/Qwen3-4B", [other])
    with pytest.warns(UntrainedQuestionWarning, match="only knows .* 'Nadia has 5 beads") as caught:
        warn_of_untrained("tiny", [*known, other, other])
    assert len(caught) == 1


def test_the_embedded_model_answers_such_a_question_and_warns_about_another() -> None:
    with LatentMAS(model="tiny", runtime="local", latent_steps=2, temperature=0.0) as mas:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UntrainedQuestionWarning)
            answer = mas.ask(EXAMPLE_OF_CHAIN)
        assert answer.answer == "5+3=8. \\boxed{8}"
        with pytest.warns(UntrainedQuestionWarning) as caught:
            mas.ask("What is 2+2?")
        assert caught[0].filename == __file__
