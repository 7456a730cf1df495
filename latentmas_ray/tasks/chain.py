"""The task `chain`: word problems of one to three steps with small numbers, where a plan helps."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

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
    sentences, plan, steps, value = [f"{name} has {start} {item}."], [f"start with {start}"], [], start
    for change in changes:
        form = rng.choice(MORE if change > 0 else LESS if change < 0 else TWICE)
        sentences.append(f"Then {name} {form.format(n=abs(change), other=other)}.")
        after = value + (change or value)
        sign, operand = ("+", change) if change > 0 else ("-", -change) if change < 0 else ("*", 2)
        plan.append({"+": f"add {operand}", "-": f"take {operand}", "*": "times 2"}[sign])
        steps.append(f"{value}{sign}{operand}={after}.")
        value = after
    question = f"{' '.join(sentences)} How many {item} has {name} now?"
    return Problem(question, ", ".join(plan) + ".", " ".join(steps), value)


def chain_questions(num: int, seed: int = 0, split: Split = "held_out") -> list[Question]:
    """Return `num` questions of one, two and three steps in turn; the same seed gives the same questions."""
    rng = Random(f"chain {split} {seed}")
    questions = []
    for index in range(num):
        problem = make_problem(rng, split, index % MAX_STEPS + 1)
        name, gold = f"chain-{index}", str(problem.gold)
        record = {"id": name, "question": problem.question, "kind": "number", "gold": gold}
        questions.append(Question(id=name, question=problem.question, kind="number", gold=gold, record=record))
    return questions
