"""The generator that writes the hints of the warm start: a teacher that knows the family of rules and is hasty.

Mostly it says a rule that explains the first example and does not look at the others. Sometimes it says something that
is true of every puzzle, and sometimes it gives the answer away, which the leak filter has to find.
"""

from random import Random

from examples.training.rlad.task.machine import RULES, MachineProblem, rule_words

ADVICE = (
    "Compare what goes in with what comes out.",
    "Find the rule that fits all examples.",
    "Work out one pass and then the other.",
)
_ADVICE_SHARE, _LEAK_SHARE = 0.1, 0.1


def teacher_hint(rng: Random, problem: MachineProblem) -> str:
    """Return the teacher's hint."""
    draw = rng.random()
    if draw < _LEAK_SHARE:
        return leak_words(problem.gold)
    if draw < _LEAK_SHARE + _ADVICE_SHARE:
        return rng.choice(ADVICE)
    return rule_words(rng.choice([rule for rule in RULES if problem.fits(rule, problem.examples[:1])]))


def leak_words(gold: int) -> str:
    """Return a hint that gives the answer away."""
    return f"The number is {gold}."
