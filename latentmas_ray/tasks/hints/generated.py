"""Hints that the generated tasks write about their own questions, from the most to the least specific. No hint states
an answer that has to be worked out; a number in one may still be the gold by chance, and of a look-up it is.

The first hint has the words that the embedded models know from each other's texts.
"""

from collections.abc import Sequence

MAX_HINTS = 4  # of each question


def chain_hints(start: int, changes: Sequence[int]) -> tuple[str, ...]:
    """Return hints about a word problem of these signed changes, of which 0 doubles the number."""
    written = [{1: "+", -1: "-"}[_sign(change)] + str(abs(change)) if change else "*2" for change in changes]
    words = [{1: "add", -1: "take away", 0: "double"}[_sign(change)] for change in changes]
    return (
        f"Plan: {plan_of(start, changes)}",
        f"Begin with {start} and apply in this order: {', '.join(written)}.",
        f"Go through the story in its order: {', then '.join(words)}.",
        "Keep the current number in mind and change it sentence by sentence.",
    )


def plan_of(start: int, changes: Sequence[int]) -> str:
    """Return the steps of a word problem: `start with 5, add 3, take 2, times 2.`"""
    steps = [f"{'add' if change > 0 else 'take'} {abs(change)}" if change else "times 2" for change in changes]
    return ", ".join([f"start with {start}", *steps]) + "."


def notes_hints(wanted: str, facts: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return hints about a question of the kind `wanted` about these facts; `names` are the persons in them."""
    what = {
        "look-up": "give the number",
        "sum": "add the numbers",
        "difference": "take the second number from the first",
        "comparison": "see which number is larger",
    }[wanted]
    return (
        f"Notes: {' '.join(facts)}",
        f"Look for {' and '.join([', '.join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]}, then {what}.",
        f"Find each name of the question in the notes first, then {what}.",
        "Only the names in the question count; leave out all others.",
    )


def facts_hints(asked: str, others: Sequence[str]) -> tuple[str, ...]:
    """Return hints about the fact of one person among those of `others`."""
    return (
        f"Look for the sentence about {asked}.",
        f"The answer is the number in the sentence that begins with {asked}.",
        f"Leave out {' and '.join(others)}.",
        "Read the name in the question, find its sentence, and copy the number.",
    )


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
