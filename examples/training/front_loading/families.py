"""The problems: eight families with a question, the steps of its work, and an answer that the last step gives.

Every text is words between spaces, all of them in `WORDS`; each is one token. A problem has `num_steps` steps; without
written work the answer must be found in one go, which is the harder the more steps there are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from random import Random

LETTERS = tuple("abcdefghijklmnop")
MAX_NUMBER = 20
NUMBERS = tuple(str(number) for number in range(MAX_NUMBER + 1))
SIDES = ("north", "east", "south", "west")
PLACES = ("first", "second", "third")
_TURNS = {"right": 1, "left": -1, "back": 2}
_HOURS = 12
_HELD_OUT = 8
_DISTRACTORS = 2  # pairs that are no part of the way


@dataclass(frozen=True)
class StepProblem:
    """A problem, its work step by step, and its answer."""

    family: str
    question: str
    steps: tuple[str, ...]
    answer: str


def account(rng: Random, num_steps: int) -> StepProblem:
    """A number and changes: each step is a sum or a difference."""
    value = rng.randint(1, 12)
    told, steps = [f"start {value}"], []
    for _ in range(num_steps):
        change = rng.choice([n for n in range(-9, 10) if n and 0 <= value + n <= MAX_NUMBER])
        sign, word = ("+", "add") if change > 0 else ("-", "take")
        told.append(f"{word} {abs(change)}")
        steps.append(f"{value} {sign} {abs(change)} = {value + change}")
        value += change
    return StepProblem("account", f"{' '.join(told)} total", tuple(steps), str(value))


def clock(rng: Random, num_steps: int) -> StepProblem:
    """An hour and hours later: sums modulo 12."""
    value = rng.randrange(_HOURS)
    told, steps = [f"hour {value}"], []
    for _ in range(num_steps):
        later = rng.randint(1, 9)
        told.append(f"later {later}")
        steps.append(f"{value} past {later} is {(value + later) % _HOURS}")
        value = (value + later) % _HOURS
    return StepProblem("clock", f"{' '.join(told)} time", tuple(steps), str(value))


def follow(rng: Random, num_steps: int) -> StepProblem:
    """Arrows between letters, in random order: follow them so many times."""
    names = rng.sample(LETTERS, num_steps + 1 + 2 * _DISTRACTORS)
    way, others = names[: num_steps + 1], names[num_steps + 1 :]
    pairs = [*pairwise(way), *zip(others[::2], others[1::2], strict=True)]
    told = [f"{one} to {other}" for one, other in rng.sample(pairs, len(pairs))]
    steps = tuple(f"{one} to {other}" for one, other in pairwise(way))
    return StepProblem("follow", f"{' , '.join(told)} from {way[0]} go {num_steps}", steps, way[-1])


def climb(rng: Random, num_steps: int) -> StepProblem:
    """Letters over letters, in random order: the one on top of a stack."""
    names = rng.sample(LETTERS, num_steps + 1 + 2 * _DISTRACTORS)
    stack, others = names[: num_steps + 1], names[num_steps + 1 :]
    pairs = [*((upper, lower) for lower, upper in pairwise(stack)), *zip(others[::2], others[1::2], strict=True)]
    told = [f"{upper} over {lower}" for upper, lower in rng.sample(pairs, len(pairs))]
    steps = tuple(f"{upper} over {lower}" for lower, upper in pairwise(stack))
    return StepProblem("climb", f"{' , '.join(told)} top of {stack[0]}", steps, stack[-1])


def swap(rng: Random, num_steps: int) -> StepProblem:
    """Three boxes whose contents are exchanged: each step says what is in all of them."""
    boxes = rng.sample(LETTERS, len(PLACES))
    told, steps = [f"boxes {' '.join(boxes)}"], []
    for _ in range(num_steps):
        one, other = sorted(rng.sample(range(len(PLACES)), 2))
        boxes[one], boxes[other] = boxes[other], boxes[one]
        told.append(f"swap {PLACES[one]} {PLACES[other]}")
        steps.append(f"boxes {' '.join(boxes)}")
    place = rng.randrange(len(PLACES))
    return StepProblem("swap", f"{' '.join(told)} what {PLACES[place]}", tuple(steps), boxes[place])


def turn(rng: Random, num_steps: int) -> StepProblem:
    """A direction and turns."""
    side = rng.randrange(len(SIDES))
    told, steps = [f"face {SIDES[side]}"], []
    for _ in range(num_steps):
        word = rng.choice(tuple(_TURNS))
        new = (side + _TURNS[word]) % len(SIDES)
        told.append(word)
        steps.append(f"{SIDES[side]} {word} {SIDES[new]}")
        side = new
    return StepProblem("turn", f"{' '.join(told)} facing", tuple(steps), SIDES[side])


def count(rng: Random, num_steps: int) -> StepProblem:
    """A list of letters: how often one of them is in it."""
    asked, *others = rng.sample(LETTERS, 4)
    letters = [asked] * num_steps + rng.choices(others, k=rng.randint(1, 4))
    rng.shuffle(letters)
    steps = tuple(f"{asked} {number}" for number in range(1, num_steps + 1))
    return StepProblem("count", f"list {' '.join(letters)} count {asked}", steps, str(num_steps))


def rank(rng: Random, num_steps: int) -> StepProblem:
    """A list of numbers: the largest, the second, …; each step takes the next largest."""
    numbers = rng.sample(range(1, MAX_NUMBER + 1), num_steps + 2)
    order = sorted(numbers, reverse=True)[:num_steps]
    steps = tuple(f"next {number}" for number in order)
    return StepProblem("rank", f"list {' '.join(map(str, numbers))} rank {num_steps}", steps, str(order[-1]))


FAMILIES: Mapping[str, Callable[[Random, int], StepProblem]] = {
    make.__name__: make for make in (account, follow, swap, turn, clock, climb, count, rank)
}
# The narrow data has only these; the diverse data has all.
NARROW = ("account", "follow", "swap", "turn")
_FORMS = (
    *("start", "add", "take", "total", "+", "-", "=", "hour", "later", "past", "is", "time", "to", ",", "from", "go"),
    *("over", "top", "of", "boxes", "swap", "what", "face", "left", "right", "back", "facing"),
    *("list", "count", "next", "rank"),
)
WORDS: Sequence[str] = tuple(dict.fromkeys([*_FORMS, *NUMBERS, *LETTERS, *SIDES, *PLACES]))


def make_problem(rng: Random, family: str, num_steps: int, *, held_out: bool = False) -> StepProblem:
    """Return a random problem of a family: with `held_out` one of the test, else one that no test has.

    Every eighth question is the test's, by its digest. Raises KeyError for an unknown family.
    """
    while True:
        problem = FAMILIES[family](rng, num_steps)
        if is_held_out(problem.question) == held_out:
            return problem


def is_held_out(question: str) -> bool:
    """Return whether a question is the test's and is in no training data."""
    return blake2b(question.encode(), digest_size=1).digest()[0] % _HELD_OUT == 0
