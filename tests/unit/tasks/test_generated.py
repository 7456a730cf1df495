"""The generated tasks: golds follow from the facts, and questions use only names of their split."""

import re
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentmas_ray.tasks import grade
from latentmas_ray.tasks.chain import MAX_STEPS, chain_questions, make_problem
from latentmas_ray.tasks.facts.questions import facts_questions
from latentmas_ray.tasks.names import HELD_OUT_NAMES, ITEMS, TRAIN_NAMES, Split, split_of
from latentmas_ray.tasks.notes import MAX_COUNT, MIN_COUNT, WANTED, Wanted, draw, make_notes, notes_questions

SEEDS = st.integers(0, 10_000)
SPLITS = st.sampled_from(("train", "held_out"))
FACT = re.compile(r"(\w+) has (\d+) \w+\.")


def test_every_name_is_in_one_split_only() -> None:
    words = (*TRAIN_NAMES, *HELD_OUT_NAMES, *ITEMS)
    assert len(set(words)) == len(words)


@settings(deadline=None)
@given(SEEDS, SPLITS, st.sampled_from(WANTED), st.lists(st.integers(2, 6), min_size=1, max_size=3))
def test_the_gold_of_a_note_question_follows_from_its_facts(
    seed: int, split: Split, wanted: Wanted, num_facts: list[int]
) -> None:
    rng = Random(seed)
    notes = make_notes(rng, split, num_facts)
    counts = {fact.name: fact.count for facts in notes for fact in facts}
    assert len(counts) == sum(num_facts)
    assert all(MIN_COUNT <= count <= MAX_COUNT for count in counts.values())
    asked = draw(rng, wanted, notes, split)
    if asked is None:
        return
    used = re.findall(r"(\w+)=(\d+)", asked.work.partition(".")[0])
    assert all(counts[name] == int(count) and name in asked.question for name, count in used)
    numbers = [int(count) for _, count in used]
    gold = {"look-up": numbers[0], "sum": sum(numbers), "difference": numbers[0] - sum(numbers[1:])}.get(wanted)
    assert asked.gold == (str(gold) if gold is not None else "AB"[numbers[0] < numbers[1]])
    assert len(numbers) == 1 or split_of(numbers) == split


@pytest.mark.parametrize("wanted", WANTED)
def test_the_facts_of_a_question_come_from_up_to_three_experts(wanted: Wanted) -> None:
    sources = set()
    for seed in range(200):
        rng = Random(seed)
        notes = make_notes(rng, "train", (4, 4, 4))
        asked = draw(rng, wanted, notes, "train")
        if asked is not None:
            used = set(re.findall(r"(\w+)=", asked.work.partition(".")[0]))
            sources.add(sum(bool(used & {fact.name for fact in facts}) for facts in notes))
    assert sources == {"look-up": {1}, "sum": {1, 2, 3}}.get(wanted, {1, 2})


@settings(deadline=None)
@given(SEEDS, SPLITS, st.integers(1, MAX_STEPS))
def test_the_steps_of_a_problem_lead_to_its_gold(seed: int, split: Split, num_steps: int) -> None:
    problem = make_problem(Random(seed), split, num_steps)
    steps = re.findall(r"(\d+)([+*-])(\d+)=(\d+)\.", problem.steps)
    assert len(steps) == num_steps
    for left, sign, right, result in steps:
        assert {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](int(left), int(right)) == int(result)
    assert all(before[3] == after[0] for before, after in pairwise(steps))
    assert int(steps[-1][3]) == problem.gold
    names = TRAIN_NAMES if split == "train" else HELD_OUT_NAMES
    assert problem.question.split()[0] in names


@pytest.mark.parametrize("make", [notes_questions, chain_questions, facts_questions])
def test_questions_are_the_same_every_time_and_use_held_out_names_only(make) -> None:  # type: ignore[no-untyped-def]
    questions = make(100)
    assert make(100) == questions
    assert make(30) == questions[:30]
    assert make(30, seed=1) != questions[:30]
    text = " ".join(str(question.record) for question in questions)
    assert not set(re.findall(r"\w+", text)) & set(TRAIN_NAMES)


def test_only_the_notes_contain_the_answer() -> None:
    for question in notes_questions(40):
        assert len(question.record["notes"]) == 3
        assert not re.search(r"\d", question.question)
        facts = dict(FACT.findall(" ".join(question.record["notes"])))
        asked = [name for name in facts if re.search(rf"\b{name}\b", question.question)]
        assert len(asked) == {"look-up": 1, "sum": len(asked)}.get(question.record["wanted"], 2)
        if question.record["wanted"] == "look-up":
            assert grade(question, f"It is \\boxed{{{facts[asked[0]]}}}.").correct


def test_a_fifth_of_all_combinations_is_held_out() -> None:
    pairs = [(left, right) for left in range(2, 21) for right in range(2, 21)]
    assert 0.15 < sum(split_of(pair) == "held_out" for pair in pairs) / len(pairs) < 0.25
