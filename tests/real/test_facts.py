"""Memory carries facts from agent to agent on a real model: with a question's own memory answers are right that are
not with another question's, or with none."""

from typing import TYPE_CHECKING

import pytest

from latentmas_ray import Answer, LatentMAS
from latentmas_ray.stats import PairedDifference, compare_paired
from latentmas_ray.tasks import load_questions

if TYPE_CHECKING:
    from latentmas_ray.topology.ablations import MemoryControl
    from tests.real.conftest import LoadedModel

NUM_QUESTIONS = 24
Runs = dict["MemoryControl", list[Answer]]


@pytest.fixture(scope="module")
def runs(loaded: "LoadedModel") -> Runs:
    """The answers to the same questions, by what the answering agent reads."""
    questions = load_questions("facts", NUM_QUESTIONS)
    found: Runs = {}
    controls: tuple[MemoryControl, ...] = ("matched", "deranged", "none")
    for memory in controls:
        with LatentMAS(
            loaded.model,
            tokenizer=loaded.tokenizer,
            task="facts",
            topology="hierarchical",
            memory=memory,
            **({} if memory == "none" else {"latent_steps": 5}),
            temperature=0.0,
            batch_size=8,
            runtime="local",
        ) as mas:
            found[memory] = list(mas.map(questions))
    return found


def gain(base: list[bool], other: list[bool]) -> PairedDifference:
    return compare_paired([float(value) for value in base], [float(value) for value in other])


@pytest.mark.parametrize("control", ["deranged", "none"])
def test_own_memory_gives_more_right_answers(runs: Runs, control: "MemoryControl") -> None:
    found = gain(*([answer.correct is True for answer in runs[memory]] for memory in (control, "matched")))
    assert found.num_questions == NUM_QUESTIONS
    assert found.interval[0] > 0, found


@pytest.mark.parametrize("control", ["deranged", "none"])
def test_the_numbers_of_an_answer_are_those_of_the_memory_that_was_read(runs: Runs, control: "MemoryControl") -> None:
    own = {memory: [answer.numbers_from in ("own", "both") for answer in answers] for memory, answers in runs.items()}
    assert gain(own[control], own["matched"]).interval[0] > 0.5, own
    other = [answer.numbers_from in ("other", "both") for answer in runs["deranged"]]
    assert sum(other) > NUM_QUESTIONS / 2, runs["deranged"]
    assert all(answer.numbers_from in ("own", "none") for answer in (*runs["matched"], *runs["none"]))
