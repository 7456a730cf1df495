"""The tables of docs/models.md: written from outcomes, and read again by a test."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import __version__

from tests.documents import ROOT
from tests.numerics.sweep.trial import Outcome

DOCUMENT = ROOT / "docs" / "models.md"
_BEGIN, _END = "<!-- families: written by python -m tests.numerics.sweep -->", "<!-- families: end -->"
_VERSION = re.compile(r"transformers (\d+\.\d+\.\d+)")


@dataclass(frozen=True)
class Row:
    """What the document says of a family."""

    works: bool
    reason: str  # why it is refused, or not tried
    merge: str  # "exact", or why branches cannot be merged
    vllm: str  # "tried", or what vLLM cannot be given

    @classmethod
    def of(cls, outcome: Outcome) -> "Row":
        merge = _merge(outcome) if outcome.works else ""
        return cls(outcome.works, _cell(outcome.reason), _cell(merge), _on_vllm(outcome))


def write(outcomes: Iterable[Outcome], document: Path = DOCUMENT) -> None:
    """Replace the tables of a document. Raises ValueError if it has no place for them."""
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{document} has no lines {_BEGIN} and {_END}")
    document.write_text(f"{before}{begin}\n\n{tables(list(outcomes))}\n{end}{after}", encoding="utf-8")


def tables(outcomes: list[Outcome]) -> str:
    """A row for each family that works, then one for each reason why others do not."""
    working = [one for one in outcomes if one.works]
    refused = [one for one in outcomes if one.kind in ("refused", "fault")]
    untried = [one for one in outcomes if one.kind == "untried"]
    lines = [
        f"Of the {len(outcomes)} families of transformers {__version__} {len(working)} work, {len(refused)} are "
        f"refused, and {len(untried)} have no default configuration that makes a model here.",
        "",
        "| family | what its layers cache | bytes per token | merges | vLLM | max \\|Δlogit\\| |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in working:
        cells = (f"`{one.family}`", one.cache, str(one.bytes_per_token), _merge(one), _on_vllm(one), _rounded(one))
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    lines += _by_reason("refused, because", refused) + _by_reason("not tried, because", untried)
    return "\n".join(lines) + "\n"


def _by_reason(title: str, outcomes: list[Outcome]) -> list[str]:
    """A table with one row for each reason, the most frequent first."""
    families: dict[str, list[str]] = {}
    for one in outcomes:
        families.setdefault(_cell(one.reason), []).append(f"`{one.family}`")
    rows = sorted(families.items(), key=lambda row: (-len(row[1]), row[0]))
    return ["", f"| {title} | families |", "| --- | --- |", *(f"| {key} | {', '.join(own)} |" for key, own in rows)]


def read(document: Path = DOCUMENT) -> Mapping[str, Row]:
    """Return what the tables of a document say, by family."""
    text = document.read_text(encoding="utf-8").partition(_BEGIN)[2].partition(_END)[0]
    rows: dict[str, Row] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 6 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = Row(True, "", cells[3], cells[4])
        elif len(cells) == 2 and cells[1].startswith("`"):
            rows.update({name.strip("` "): Row(False, cells[0], "", "") for name in cells[1].split(",")})
    return rows


def version(document: Path = DOCUMENT) -> str:
    """Return the version of transformers whose families the tables list."""
    found = _VERSION.search(document.read_text(encoding="utf-8").partition(_BEGIN)[2])
    return found[1] if found else ""


def _cell(text: str) -> str:
    """A cell on one line. Numbers that depend on rounding are left out."""
    text = re.sub(r" \(relative error [^)]*\)", "", " ".join(text.split()))
    return text.replace("|", "\\|") if "\\|" not in text else text


def _merge(outcome: Outcome) -> str:
    """In a word, which the document explains."""
    return "no: states" if outcome.merge else "exact"


def _on_vllm(outcome: Outcome) -> str:
    """In a word, which the document explains."""
    if not outcome.works:
        return ""
    return next((f"no: {word}s" for word in ("state", "window", "shape") if word in outcome.vllm), "tried")


def _rounded(outcome: Outcome) -> str:
    """The largest error, rounded up to a power of ten: the digits differ from machine to machine."""
    return next((f"≤ 1e-{digits}" for digits in (6, 5, 4) if outcome.largest_error <= 10**-digits), "> 1e-4")
