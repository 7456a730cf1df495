"""Generates the task `facts`: three experts hold one fact each, and the agent that answers sees only the question.

Unlike `notes` it needs no model that was trained for it. Its numbers show where an answer comes from: no number and no
name in a question's facts occurs in those of the question before it, of the one after it, or of the first one. So with
the control `deranged` the memory that is read has neither the person who is asked about nor a number of the question.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from latentmas_ray.tasks.facts.numbers import TASK
from latentmas_ray.tasks.hints.generated import facts_hints
from latentmas_ray.tasks.names import ITEMS, Split, names_of, split_of
from latentmas_ray.tasks.notes import NUM_EXPERTS, Fact
from latentmas_ray.tasks.question import Question

NUM_QUESTIONS = 5000
MAX_NEW_TOKENS = 32  # an answer is one short sentence
MIN_COUNT, MAX_COUNT = 13, 98  # two digits, which chance rarely hits


@dataclass(frozen=True)
class _Facts:
    """The facts of one question, one per expert, and the one that is asked for."""

    facts: tuple[Fact, ...]
    asked: Fact


def facts_questions(num: int, seed: int = 0, split: Split = "held_out") -> list[Question]:
    """Return `num` questions, each about the fact of one expert. The same seed gives the same questions; a shorter list
    is the beginning of a longer one. Questions of the two splits share no name and no combination of numbers.

    A record has `notes`, one text per expert, `hints`, and `task`, so that `numbers_from` knows where an answer's
    numbers are from. Its `wrong_notes` have another count in the fact that is asked for, and `wrong_gold` is that.
    """
    rng = Random(f"{TASK} {split} {seed}")
    drawn: list[_Facts] = []
    for _ in range(num):
        drawn.append(_draw(rng, split, [*drawn[:1], *drawn[-1:]]))
    return [_question(f"{TASK}-{index}", one) for index, one in enumerate(drawn)]


def _draw(rng: Random, split: Split, others: Sequence[_Facts]) -> _Facts:
    """Return facts without a name or a number of `others`."""
    taken = [fact for other in others for fact in other.facts]
    names = sorted(set(names_of(split)) - {fact.name for fact in taken})
    counts = sorted({*range(MIN_COUNT, MAX_COUNT + 1)} - {fact.count for fact in taken})
    while True:
        numbers = rng.sample(counts, NUM_EXPERTS)
        if split_of(numbers) == split:
            break
    facts = tuple(map(Fact, rng.sample(names, NUM_EXPERTS), numbers, rng.sample(ITEMS, NUM_EXPERTS)))
    return _Facts(facts, rng.choice(facts))


def _question(name: str, drawn: _Facts) -> Question:
    question, gold = f"How many {drawn.asked.item} does {drawn.asked.name} have?", str(drawn.asked.count)
    record: dict[str, object] = {
        "id": name,
        "task": TASK,
        "question": question,
        "kind": "number",
        "gold": gold,
        "notes": [fact.text for fact in drawn.facts],
        "hints": [*facts_hints(drawn.asked.name, [fact.name for fact in drawn.facts if fact != drawn.asked])],
    }
    rng = Random(f"wrong {TASK} {drawn.facts}")  # not that of the questions, which stay what they are
    wrong = rng.choice(sorted({*range(MIN_COUNT, MAX_COUNT + 1)} - {fact.count for fact in drawn.facts}))
    told = [replace(fact, count=wrong) if fact == drawn.asked else fact for fact in drawn.facts]
    record |= {"wrong_notes": [fact.text for fact in told], "wrong_gold": str(wrong)}
    return Question(id=name, question=question, kind="number", gold=gold, record=record)
