"""The task `notes`: each expert has its own notes, and a question needs facts of one, two or three experts.

The question does not contain the numbers, so the answer depends on what the experts hand over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from random import Random
from typing import Literal

from latentmas_ray.tasks.hints.generated import notes_hints
from latentmas_ray.tasks.names import ITEMS, Split, names_of, split_of
from latentmas_ray.tasks.question import AnswerKind, Question

NUM_EXPERTS = 3
MIN_COUNT, MAX_COUNT = 2, 20
MAX_FACTS = 6  # of one expert

Wanted = Literal["look-up", "sum", "difference", "comparison"]
WANTED: tuple[Wanted, ...] = ("look-up", "sum", "difference", "comparison")


@dataclass(frozen=True)
class Fact:
    """How many items a person has."""

    name: str
    count: int
    item: str

    @property
    def text(self) -> str:
        return f"{self.name} has {self.count} {self.item}."


Notes = tuple[tuple[Fact, ...], ...]  # one tuple per expert


@dataclass(frozen=True)
class NotesQuestion:
    """A question about notes, its gold, and `work`: a full answer with the facts and the steps. `facts` are those that
    it is about."""

    question: str
    kind: AnswerKind
    gold: str
    work: str
    facts: tuple[Fact, ...]
    choices: tuple[str, ...] = ()


def make_notes(rng: Random, split: Split, num_facts: Sequence[int]) -> Notes:
    """Return notes about one kind of item, one expert for each entry of `num_facts`. No name occurs twice."""
    item = rng.choice(ITEMS)
    names = iter(rng.sample(names_of(split), sum(num_facts)))
    return tuple(
        tuple(Fact(next(names), rng.randint(MIN_COUNT, MAX_COUNT), item) for _ in range(num)) for num in num_facts
    )


def notes_text(facts: Sequence[Fact]) -> str:
    """Return one expert's notes as text."""
    return " ".join(fact.text for fact in facts)


def ask(wanted: Wanted, facts: Sequence[Fact]) -> NotesQuestion:
    """Return the question of this kind about these facts: one fact for a look-up, two or three for a sum, else two with
    different counts."""
    item, counts = facts[0].item, [fact.count for fact in facts]
    names = [fact.name for fact in facts]
    found = "So " + ", ".join(f"{fact.name}={fact.count}" for fact in facts) + "."
    if wanted == "look-up":
        return _number(f"How many {item} has {names[0]}?", counts[0], found, facts)
    if wanted == "sum":
        steps, total = [], counts[0]
        for count in counts[1:]:
            steps.append(f"{total}+{count}={total + count}.")
            total += count
        together = " and ".join([", ".join(names[:-1]), names[-1]])
        return _number(f"How many {item} have {together} together?", total, " ".join([found, *steps]), facts)
    if wanted == "difference":
        less = counts[0] - counts[1]
        step = f"{counts[0]}-{counts[1]}={less}."
        return _number(f"How many more {item} has {names[0]} than {names[1]}?", less, f"{found} {step}", facts)
    letter = "A" if counts[0] > counts[1] else "B"
    question = f"Who has more {item}: (A) {names[0]} or (B) {names[1]}?"
    work = f"{found} \\boxed{{{letter}}}"
    return NotesQuestion(question, "choice", letter, work, tuple(facts), choices=tuple(names))


def _number(question: str, gold: int, work: str, facts: Sequence[Fact]) -> NotesQuestion:
    return NotesQuestion(question, "number", str(gold), f"{work} \\boxed{{{gold}}}", tuple(facts))


def draw(rng: Random, wanted: Wanted, notes: Notes, split: Split) -> NotesQuestion | None:
    """Return a question of this kind about some of these facts, or None if none with numbers of this split was drawn.

    Facts come from one, two or three experts, equally often. A single number belongs to both splits.
    """
    num = {"look-up": 1, "sum": rng.choice((2, 2, 3))}.get(wanted, 2)
    for _ in range(20):
        num_sources = rng.randint(1, min(num, len(notes)))
        experts = rng.sample(notes, num_sources)
        pools = [list(facts) for facts in experts]
        if sum(map(len, pools)) < num:
            continue
        first = [pool.pop(rng.randrange(len(pool))) for pool in pools]
        facts = first + rng.sample(list(chain(*pools)), num - num_sources)
        rng.shuffle(facts)
        if wanted == "difference":
            facts.sort(key=lambda fact: -fact.count)
        if num > 1 and wanted != "sum" and facts[0].count == facts[1].count:
            continue
        if num == 1 or split_of([fact.count for fact in facts]) == split:
            return ask(wanted, facts)
    return None


def notes_questions(
    num: int, seed: int = 0, split: Split = "held_out", num_facts: tuple[int, int] = (2, MAX_FACTS)
) -> list[Question]:
    """Return `num` questions of each kind in turn, with `num_facts` = (least, most) facts per expert. The same seed
    gives the same questions.

    A record has `notes`, one text per expert, `hints`, and `wanted`, the kind of question. Its `wrong_notes` have one
    of the facts asked about with another count, `wrong_gold` is the answer that follows from them, and `wrong_hints`
    have that count.
    """
    rng = Random(f"notes {split} {seed}")
    questions: list[Question] = []
    while len(questions) < num:
        wanted = WANTED[len(questions) % len(WANTED)]
        notes = make_notes(rng, split, [rng.randint(*num_facts) for _ in range(NUM_EXPERTS)])
        asked = draw(rng, wanted, notes, split)
        if asked is not None:
            name = f"notes-{len(questions)}"
            wrong = _wrong_fact(Random(f"wrong {name} {split} {seed}"), wanted, asked, split)
            questions.append(_question(name, wanted, notes, asked, *wrong))
    return questions


def _wrong_fact(rng: Random, wanted: Wanted, asked: NotesQuestion, split: Split) -> tuple[Fact, NotesQuestion]:
    """Return one of the facts asked about with another count, and the question about it: its gold is another one.

    Counts are of the usual range and their combination of this split where that is possible. The question keeps its
    sense: a difference stays positive. The right facts and their order are those of `asked`.
    """
    usual, found = [], []
    for place, fact in enumerate(asked.facts):
        for count in range(MIN_COUNT, MAX_COUNT + 2):  # one more, for a comparison of the least with the most
            facts = [*asked.facts[:place], replace(fact, count=count), *asked.facts[place + 1 :]]
            counts = [one.count for one in facts]
            if (wanted == "difference" and counts[0] <= counts[1]) or (wanted == "comparison" and len({*counts}) == 1):
                continue
            wrong = facts[place], ask(wanted, facts)
            if wrong[1].gold != asked.gold:
                found.append(wrong)
                if count <= MAX_COUNT and (len(counts) == 1 or split_of(counts) == split):
                    usual.append(wrong)
    return rng.choice(usual or found)


def _question(
    name: str, wanted: Wanted, notes: Notes, asked: NotesQuestion, wrong_fact: Fact, wrong: NotesQuestion
) -> Question:
    record: dict[str, object] = {
        "id": name,
        "question": asked.question,
        "kind": asked.kind,
        "gold": asked.gold,
        "wanted": wanted,
        "notes": [notes_text(facts) for facts in notes],
        "hints": _hints(wanted, asked),
    }
    wrong_notes = [[wrong_fact if fact.name == wrong_fact.name else fact for fact in facts] for facts in notes]
    record |= {"wrong_notes": [notes_text(facts) for facts in wrong_notes], "wrong_gold": wrong.gold}
    record["wrong_hints"] = _hints(wanted, wrong)
    if asked.choices:
        record["choices"] = list(asked.choices)
    return Question(id=name, question=asked.question, kind=asked.kind, gold=asked.gold, record=record)


def _hints(wanted: Wanted, asked: NotesQuestion) -> list[str]:
    return [*notes_hints(wanted, [fact.text for fact in asked.facts], [fact.name for fact in asked.facts])]
