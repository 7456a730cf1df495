"""The task `facts`: only its notes hold the answers, and the numbers of an answer show whose notes it is from."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.tasks import grade, load_questions, mismatch_memory, task_max_new_tokens
from latentmas_ray.tasks.facts.numbers import numbers_from
from latentmas_ray.tasks.facts.questions import MAX_NEW_TOKENS, NUM_QUESTIONS, facts_questions
from latentmas_ray.tasks.names import names_of, split_of
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import RenderedPrompts, apply_method, load_topology
from tests.cases.records import write

FACT = re.compile(r"(\w+) has (\d\d) (\w+)\.")


def facts_of(question: Question) -> dict[str, tuple[str, str]]:
    """What each person of a question's notes has."""
    found = [FACT.fullmatch(note) for note in question.record["notes"]]
    return {one[1]: (one[2], one[3]) for one in found if one is not None}


@pytest.mark.parametrize("split", ["held_out", "train"])
def test_a_question_asks_for_one_fact_of_its_notes(split: Any) -> None:
    asked_experts = set()
    for question in facts_questions(200, split=split):
        facts = facts_of(question)
        assert len(facts) == 3 == len(set(facts.values()))
        assert set(facts) <= set(names_of(split))
        assert split_of([int(count) for count, _ in facts.values()]) == split
        name = question.question.split()[4]
        assert question.question == f"How many {facts[name][1]} does {name} have?"
        assert question.gold == facts[name][0]
        asked_experts.add(list(facts).index(name))
    assert asked_experts == {0, 1, 2}


@given(st.integers(0, 1000), st.integers(2, 40))
def test_the_memory_of_another_question_has_no_name_and_no_number_of_it(seed: int, num: int) -> None:
    for question in mismatch_memory(facts_questions(num, seed)):
        assert question.seen_by_others is not None
        own, other = facts_of(question), facts_of(question.seen_by_others)
        assert not set(own) & set(other)
        assert not {count for count, _ in own.values()} & {count for count, _ in other.values()}


def test_thousands_of_questions_that_differ_by_seed() -> None:
    questions = load_questions("facts")
    assert len(questions) == NUM_QUESTIONS >= 2000
    assert len({tuple(question.record["notes"]) for question in questions}) == NUM_QUESTIONS
    assert load_questions("facts", limit=7) == questions[:7]
    others = {tuple(question.record["notes"]) for question in facts_questions(1000, seed=1)}
    assert not others & {tuple(question.record["notes"]) for question in questions}


def test_its_answers_are_short_unless_other_tasks_need_more() -> None:
    (question,) = load_questions("facts", limit=1)
    assert task_max_new_tokens([question]) == MAX_NEW_TOKENS
    assert task_max_new_tokens([question, replace(question, id="x", record={"task": "gsm8k"})]) == 2048


@pytest.mark.parametrize("form", ["sequential", "hierarchical"])
@pytest.mark.parametrize("method", ["latent", "text"])
def test_each_expert_sees_its_own_fact_and_the_answering_agent_only_the_question(form: str, method: Any) -> None:
    topology = apply_method(load_topology(f"facts-{form}"), method)
    (question,) = load_questions("facts", limit=1)
    prompts = RenderedPrompts.of(topology, [question])
    shown = [prompts.get(agent, question, "").messages for agent in topology.agents]
    expected = [*question.record["notes"], question.question]
    assert [[message["content"] for message in messages] for messages in shown] == [[text] for text in expected]


@pytest.mark.parametrize(
    ("answer", "source"),
    [
        ("Ruth has 74 cups.", "own"),
        ("Tara has 68 pears.", "own"),
        ("31", "other"),
        ("74 or 31", "both"),
        ("9 and 740 and 1974", "none"),
        ("no idea", "none"),
        ("9" * 5000, "none"),
    ],
)
def test_whose_numbers_an_answer_has(answer: str, source: str) -> None:
    own = {"task": "facts", "notes": ["Ruth has 74 cups.", "Tara has 68 pears."]}
    other = {"task": "facts", "notes": ["Olga has 31 pens.", "Zoe has 68 nuts."]}
    one, two = (
        Question(id=name, question="How many cups does Ruth have?", kind="number", gold="74", record=record)
        for name, record in (("a", own), ("b", other))
    )
    deranged = replace(one, seen_by_others=two)
    assert numbers_from(deranged, answer) == source
    assert grade(deranged, answer).numbers_from == source
    assert grade(deranged, answer).correct is (answer == "Ruth has 74 cups.")
    without_other = {"other": "none", "both": "own"}.get(source, source)
    assert numbers_from(one, answer) == without_other


def test_other_tasks_and_records_without_notes_say_nothing(tmp_path: Path) -> None:
    assert all(grade(question, "7").numbers_from is None for question in load_questions("notes", limit=8))
    assert all(grade(question, "7").numbers_from is None for question in load_questions("chain", limit=3))
    record = {"id": "1", "question": "How many?", "gold": "13", "task": "facts"}
    path = write(tmp_path, record, {**record, "id": "2", "notes": ["A has 13 pens."]})
    without, with_notes = load_questions(path)
    assert without.kind == with_notes.kind == "number"
    assert grade(without, "13").numbers_from is None
    assert grade(with_notes, "13").numbers_from == "own"
