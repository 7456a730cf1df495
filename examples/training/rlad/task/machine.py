"""The task: a machine changes numbers by a rule that only examples show, and a number goes through it twice.

A rule has one or two steps: add, take away, double, triple. The hint that helps is the rule in words; it says nothing
about the number that goes in, so it cannot contain the answer. One example alone fits several rules (3 into 8: add 5,
or double and add 2, or add 1 and double): the teacher of the warm start looks at one only, and is often wrong.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from latentmas_ray.tasks import Question
from latentmas_ray.tasks.names import Split, split_of

MAX_CHANGE = 9
MAX_INPUT = 9
MAX_VALUE = 99
NUM_EXAMPLES = 3
_NUM_PASSES = 2
_LEAST_GOLD = 10  # rules have numbers up to 9, so none of them is the answer by chance
_CODES = {"add": 1, "take": 2, "double": 3, "triple": 4}

_FACTORS: dict["StepKind", int] = {"double": 2, "triple": 3}

StepKind = Literal["add", "take", "double", "triple"]


class RuleStep(NamedTuple):
    """One step of a rule; `size` is the factor of `double` and `triple`."""

    kind: StepKind
    size: int

    def apply(self, value: int) -> int:
        """Return the value after the step."""
        if self.kind in _FACTORS:
            return self.size * value
        return value + self.size if self.kind == "add" else value - self.size

    @property
    def words(self) -> str:
        return self.kind if self.kind in _FACTORS else f"{self.kind} {self.size}"


Rule = tuple[RuleStep, ...]


def all_rules() -> tuple[Rule, ...]:
    """Return every rule: one step, or two of which exactly one multiplies. Some do the same in other words."""
    kinds: tuple[StepKind, ...] = ("add", "take")
    changes = [RuleStep(kind, size) for kind in kinds for size in range(1, MAX_CHANGE + 1)]
    factors = [RuleStep(kind, size) for kind, size in _FACTORS.items()]
    pairs = [rule for one in changes for factor in factors for rule in ((factor, one), (one, factor))]
    return (*((one,) for one in (*factors, *changes)), *pairs)


RULES = all_rules()


def values_of(rule: Rule, value: int) -> list[int]:
    """Return the value after each step of the rule."""
    found = []
    for step in rule:
        value = step.apply(value)
        found.append(value)
    return found


def rule_words(rule: Rule) -> str:
    """Return the rule as a hint says it: `Rule: double, then add 2.`"""
    return f"Rule: {', then '.join(step.words for step in rule)}."


def read_rule(hint: str) -> Rule | None:
    """Return the rule that a hint says; None if it says none."""
    return _BY_WORDS.get(hint.strip())


_BY_WORDS = {rule_words(rule): rule for rule in RULES}


@dataclass(frozen=True)
class MachineProblem:
    """One puzzle: what went in and came out, the number that goes in now, and the gold."""

    rule: Rule
    examples: tuple[tuple[int, int], ...]
    start: int

    @property
    def values(self) -> list[int]:
        """The values after each step of both passes."""
        first = values_of(self.rule, self.start)
        return first + values_of(self.rule, first[-1])

    @property
    def gold(self) -> int:
        return self.values[-1]

    @property
    def split(self) -> Split:
        """The split, by the rule, the examples in any order, and the start."""
        code = [number for step in self.rule for number in (_CODES[step.kind], step.size)]
        return split_of([*code, *sorted(before for before, _ in self.examples), self.start])

    @property
    def question(self) -> str:
        pairs = [f"{before} into {after}" for before, after in self.examples]
        turned = f"{', '.join(pairs[:-1])} and {pairs[-1]}"
        return f"A machine turns {turned}. What comes out if {self.start} goes through it twice?"

    @property
    def work(self) -> str:
        """The solver's text: the values alone. What the steps were, only a hint says."""
        return f"{' '.join(map(str, [self.start, *self.values]))}. \\boxed{{{self.gold}}}"

    def fits(self, rule: Rule, examples: Sequence[tuple[int, int]] | None = None) -> bool:
        """Return whether the rule explains the examples; all of them if none are given."""
        shown = self.examples if examples is None else examples
        return all(values_of(rule, before)[-1] == after for before, after in shown)


def make_machine(rng: Random, split: Split) -> MachineProblem:
    """Return a problem of `split`. Only rules of the same effect as its own fit it."""
    while True:
        rule = rng.choice(RULES)
        *inputs, start = rng.sample(range(1, MAX_INPUT + 1), NUM_EXAMPLES + 1)
        examples = tuple((one, values_of(rule, one)[-1]) for one in inputs)
        problem = MachineProblem(rule, examples, start)
        if problem.split == split and _is_in_range(problem):
            return problem


def _is_in_range(problem: MachineProblem) -> bool:
    shown = [value for before, _ in problem.examples for value in values_of(problem.rule, before)]
    return all(1 <= value <= MAX_VALUE for value in (*shown, *problem.values)) and problem.gold >= _LEAST_GOLD


def problems(seed: str, split: Split) -> Iterator[MachineProblem]:
    """Yield problems without end; the same seed gives the same ones."""
    rng = Random(f"machine {split} {seed}")
    while True:
        yield make_machine(rng, split)


def machine_questions(num: int, seed: int = 0) -> list[Question]:
    """Return held-out problems as questions. A record has `hints`: the rule. The same seed gives the same questions."""
    found = []
    for index, problem in zip(range(num), problems(str(seed), "held_out"), strict=False):
        name, gold = f"machine-{index}", str(problem.gold)
        record = {
            "id": name,
            "question": problem.question,
            "kind": "number",
            "gold": gold,
            "hints": [rule_words(problem.rule)],
        }
        found.append(Question(id=name, question=problem.question, kind="number", gold=gold, record=record))
    return found
