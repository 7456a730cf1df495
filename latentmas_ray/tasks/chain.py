"""The task `chain`: word problems of one to three steps with small numbers, where a plan helps."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from random import Random

from latentmas_ray.tasks.hints.generated import chain_hints, plan_of
from latentmas_ray.tasks.names import ITEMS, Split, names_of, split_of
from latentmas_ray.tasks.question import Question

MAX_STEPS = 3
MAX_START = 12
MAX_CHANGE = 9
MAX_VALUE = 30

MORE = ("buys {n} more", "finds {n} more", "gets {n} from {other}", "wins {n} more")
LESS = ("loses {n}", "gives {n} to {other}", "sells {n}", "breaks {n}")
TWICE = ("doubles the number",)


@dataclass(frozen=True)
class Problem:
    """A word problem, its plan in words, the steps of its calculation, and the gold."""

    question: str
    plan: str
    steps: str
    gold: int
    start: int
    changes: tuple[int, ...]  # signed; 0 doubles the number

    @property
    def work(self) -> str:
        return f"{self.steps} \\boxed{{{self.gold}}}"


def make_problem(rng: Random, split: Split, num_steps: int) -> Problem:
    """Return a problem with this many steps, whose names and combination of numbers belong to `split`."""
    while True:
        start = rng.randint(2, MAX_START)
        changes = _draw_changes(rng, start, num_steps)
        if split_of([start, *changes]) == split:
            return _write(rng, split, start, changes)


def _draw_changes(rng: Random, start: int, num_steps: int) -> list[int]:
    """Return signed changes that keep the value between 1 and MAX_VALUE; 0 doubles it."""
    value = start
    changes: list[int] = []
    while len(changes) < num_steps:
        change = rng.randint(1, MAX_CHANGE) * rng.choice((1, -1)) if rng.random() < 0.85 else 0
        after = value + (change or value)
        if 1 <= after <= MAX_VALUE:
            value = after
            changes.append(change)
    return changes


def _write(rng: Random, split: Split, start: int, changes: Sequence[int]) -> Problem:
    name, other = rng.sample(names_of(split), 2)
    item = rng.choice(ITEMS)
    sentences, steps, value = [f"{name} has {start} {item}."], [], start
    for change in changes:
        form = rng.choice(MORE if change > 0 else LESS if change < 0 else TWICE)
        sentences.append(f"Then {name} {form.format(n=abs(change), other=other)}.")
        after = value + (change or value)
        sign, operand = ("+", change) if change > 0 else ("-", -change) if change < 0 else ("*", 2)
        steps.append(f"{value}{sign}{operand}={after}.")
        value = after
    question = f"{' '.join(sentences)} How many {item} has {name} now?"
    return Problem(question, plan_of(start, changes), " ".join(steps), value, start, tuple(changes))


def wrong_problem(rng: Random, problem: Problem) -> tuple[str, int, tuple[str, ...]]:
    """Return the text of the problem with another number in one place, the answer that follows from it, which differs
    from the gold, and the hints about it. All values stay in the usual range."""
    numbers = [problem.start, *problem.changes]
    found = []
    for place, number in enumerate(numbers):
        least, most = (2, MAX_START) if place == 0 else (1, MAX_CHANGE)
        for size in range(least, most + 1) if number else ():
            changed = [*numbers[:place], size if number > 0 else -size, *numbers[place + 1 :]]
            values = list(accumulate(changed, lambda value, change: value + (change or value)))
            if values[-1] != problem.gold and all(1 <= value <= MAX_VALUE for value in values):
                found.append((sum(map(bool, numbers[:place])), size, changed))
    place, size, changed = rng.choice(found)
    *_, gold = accumulate(changed, lambda value, change: value + (change or value))
    written = count()
    text = re.sub(r"\d+", lambda match: str(size) if next(written) == place else match[0], problem.question)
    return text, gold, chain_hints(changed[0], changed[1:])


def chain_questions(num: int, seed: int = 0, split: Split = "held_out") -> list[Question]:
    """Return `num` questions of one, two and three steps in turn; the same seed gives the same questions.

    A record has `hints`. Its `wrong_question` has another number in one place, `wrong_gold` is the answer that follows
    from it, and `wrong_hints` are about it.
    """
    rng = Random(f"chain {split} {seed}")
    questions = []
    for index in range(num):
        problem = make_problem(rng, split, index % MAX_STEPS + 1)
        name, gold = f"chain-{index}", str(problem.gold)
        record: dict[str, object] = {"id": name, "question": problem.question, "kind": "number", "gold": gold}
        record["hints"] = [*chain_hints(problem.start, problem.changes)]
        wrong, wrong_gold, hints = wrong_problem(Random(f"wrong {name} {split} {seed}"), problem)
        record |= {"wrong_question": wrong, "wrong_gold": str(wrong_gold), "wrong_hints": [*hints]}
        questions.append(Question(id=name, question=problem.question, kind="number", gold=gold, record=record))
    return questions
