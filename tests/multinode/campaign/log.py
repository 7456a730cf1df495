"""The log of a campaign: one line of JSON for each seed, and the table at its end."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

from tests.multinode.campaign.schedule import KINDS

Verdict = Literal["ok", "lost", "doubled", "changed", "hung", "failed", "left behind"]


@dataclass(frozen=True, kw_only=True)
class Pause:
    """What a fault cost."""

    kind: str
    seconds: float | None  # to the next answer; None if all were there
    longest: float | None = None  # the longest time without an answer until the next fault; None if there was no answer


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the run of a seed ended."""

    seed: int
    schedule: str
    verdict: Verdict
    why: str = ""
    pauses: list[Pause] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)  # faults for which the run was too soon over
    num_retries: int = 0  # times that the run said it continued after a loss
    seconds: float = 0.0
    load: float = 0.0  # of the machine, at the end


def append_outcome(path: Path, outcome: Outcome) -> None:
    """Add a line. One that was cut off while it was written is removed."""
    with path.open("ab") as file:
        file.truncate(path.read_bytes().rfind(b"\n") + 1)
        file.write(json.dumps(asdict(outcome)).encode() + b"\n")


def read_outcomes(path: Path) -> dict[int, Outcome]:
    """The last outcome of each seed. A line that was cut off is left out."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {row["seed"]: Outcome(**row | {"pauses": [Pause(**one) for one in row["pauses"]]}) for row in rows}


def parse_seeds(text: str) -> list[int]:
    """`3,7-9` as numbers. Raises ValueError."""
    seeds: list[int] = []
    for part in text.split(","):
        numbers = [int(one) for one in part.split("-") if one.isdigit()]
        if len(numbers) != part.count("-") + 1 or len(numbers) > 2 or numbers[0] > numbers[-1]:
            raise ValueError(f"seeds: got {part!r}; they are numbers and ranges, as in 3,7-9")
        seeds += range(numbers[0], numbers[-1] + 1)
    return list(dict.fromkeys(seeds))


def summarize(outcomes: Iterable[Outcome]) -> str:
    """A table of verdicts and one of pauses, as Markdown."""
    done = list(outcomes)
    verdicts = Counter(outcome.verdict for outcome in done)
    lines = [
        f"{len(done)} schedules: {', '.join(f'{count} {verdict}' for verdict, count in verdicts.most_common())}",
        "",
    ]
    lines += [
        "| fault | times | to the next answer, median | longest pause, median | longest pause, most | not reached |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in KINDS:
        pauses = [pause for outcome in done for pause in outcome.pauses if pause.kind == kind]
        seconds = [pause.seconds for pause in pauses if pause.seconds is not None]
        longest = [pause.longest for pause in pauses if pause.longest is not None]
        missed = sum(f": {kind}" in fault for outcome in done for fault in outcome.not_reached)
        figures = [f"{median(seconds):.1f} s" if seconds else ""]
        figures += [f"{median(longest):.1f} s", f"{max(longest):.1f} s"] if longest else ["", ""]
        lines.append(f"| {kind} | {len(pauses)} | {' | '.join(figures)} | {missed} |")
    bad = [outcome for outcome in done if outcome.verdict != "ok"]
    return "\n".join([*lines, *([""] if bad else []), *(f"seed {one.seed}: {one.verdict}: {one.why}" for one in bad)])


def judge(rows: Sequence[dict[str, object]], undisturbed: Sequence[dict[str, object]]) -> tuple[Verdict, str]:
    """Whether each question has its one answer, and the same as undisturbed."""
    ids = [str(row["id"]) for row in rows]
    wanted = {str(row["id"]): row for row in undisturbed}
    if lost := sorted(set(wanted) - set(ids)):
        return "lost", f"without an answer: {', '.join(lost)}"
    if doubled := sorted(name for name, count in Counter(ids).items() if count > 1 or name not in wanted):
        return "doubled", f"more than one answer, or none asked for: {', '.join(doubled)}"
    changed = {
        name: sorted(key for key in {*row, *wanted[name]} if row.get(key) != wanted[name].get(key))
        for name, row in zip(ids, rows, strict=True)
        if row != wanted[name]
    }
    if changed:
        return "changed", "; ".join(f"{name}: {', '.join(keys)}" for name, keys in changed.items())
    return "ok", ""
