"""The tables: what each stage of training gives, and the paper's findings as differences with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from examples.training.front_loading.cells import EXTREMES, RL_SET, verdicts_by_seed
from examples.training.front_loading.documents import CONTROLS, MIXES, SFT_SETS
from examples.training.front_loading.families import FAMILIES, NARROW
from examples.training.studies.folder import StudyRow
from examples.training.studies.intervals import (
    accuracy_over_seeds,
    difference,
    percent_interval,
    percent_range,
)
from examples.training.studies.table import StudyTable
from latentmas_ray.stats import MeanInterval

_NONE = "–"
_OTHERS = tuple(family for family in FAMILIES if family not in NARROW)
_SETS = (*SFT_SETS, *(f"{name}x2" for name in SFT_SETS))


@dataclass(frozen=True)
class Finding:
    """A finding of the paper: `other` is better than `base` (`sign` 1), worse (-1), or the same (0), on `families`."""

    said: str
    base: str
    other: str
    sign: int
    families: Sequence[str] = ()  # all


FINDINGS = (
    Finding("pretraining: small above none (52.7 → 55.0)", "pretrain-none", "pretrain-small", 1),
    Finding("pretraining: large above small (55.0 → 64.1)", "pretrain-small", "pretrain-large", 1),
    Finding("pretraining: union equals large (64.1 → 64.1)", "pretrain-large", "pretrain-union", 0),
    Finding("tuning: front-loaded above none", "sft-none-small", "sft-union-small", 1),
    Finding("tuning: union above large (46.7 → 51.0)", "sft-large-small", "sft-union-small", 1),
    Finding("doubled tuning of none stays below small (37.3 → 34.0)", "sft-small-small", "sft-none-smallx2", -1),
    Finding("doubled tuning of none stays below union", "sft-union-small", "sft-none-smallx2", -1),
    Finding("tuning: quality counts, small above large (31.5 → 45.0)", "sft-union-large", "sft-union-small", 1),
    Finding("the same on the families of both sets", "sft-union-large", "sft-union-small", 1, NARROW),
    Finding("tuning: doubled mixed data harms", "sft-union-large", "sft-union-largex2", -1),
    Finding("rewards: front-loaded above none (37.9 → 56.7)", "rl-none", "rl-union", 1),
)
# What the paper does not separate: diversity and repetition.
CONTROL_FINDINGS = (
    Finding("same repetition, diverse instead of narrow", "pretrain-small", "pretrain-large-repeated", 1),
    Finding("narrow, fresh instead of repeated", "pretrain-small", "pretrain-small-fresh", 1),
    Finding("diverse, fresh instead of repeated", "pretrain-large-repeated", "pretrain-large", 1),
    Finding("the same after tuning: diverse instead of narrow", "sft-small-small", "sft-large-repeated-small", 1),
    Finding("the same after tuning: narrow, fresh instead of repeated", "sft-small-small", "sft-small-fresh-small", 1),
)


def make_tables(rows: Sequence[StudyRow]) -> list[StudyTable]:
    """Return the tables of what is there; a cell that is missing is a dash."""
    return [
        _pretraining(rows),
        _fine_tuning(rows, "all families", ()),
        _fine_tuning(rows, f"{', '.join(NARROW)}: the families of both sets", NARROW),
        _fine_tuning(rows, f"{', '.join(_OTHERS)}: those of the large set alone", _OTHERS),
        _rewards(rows),
        _findings(rows, FINDINGS, "The paper's findings here (points)"),
        _findings(rows, CONTROL_FINDINGS, "Diversity and repetition apart (points)"),
        _families(rows),
    ]


def accuracies(rows: Sequence[StudyRow], name: str, families: Sequence[str] = ()) -> MeanInterval | None:
    """Return the mean accuracy over seeds of a cell, on these families (all by default); None if it was not run."""
    found = verdicts_by_seed(rows, name)
    if not found:
        return None
    return accuracy_over_seeds({seed: _of(verdicts, families) for seed, verdicts in found.items()})


def _of(verdicts: str, families: Sequence[str]) -> str:
    """Return the verdicts on the problems of these families: problem i is of family i modulo their number."""
    names = tuple(FAMILIES)
    return "".join(one for index, one in enumerate(verdicts) if not families or names[index % len(names)] in families)


def _shown(interval: MeanInterval | None) -> str:
    return _NONE if interval is None else percent_interval(interval)


def _three(rows: Sequence[StudyRow], name: str) -> list[str]:
    """Return the accuracy on all families, on the narrow data's, and on the others."""
    return [_shown(accuracies(rows, name, families)) for families in ((), NARROW, _OTHERS)]


def _pretraining(rows: Sequence[StudyRow]) -> StudyTable:
    columns = ["mix", "base tokens", "reasoning tokens", "different ones", "epochs", "all", "narrow's", "others"]
    lines: list[list[str]] = []
    for mix in (*MIXES, *CONTROLS):
        some = [row for row in rows if row.cell == f"pretrain-{mix}-{row.seed}"]
        if some:
            told: Mapping[str, float] = some[0].figures
            counts = [f"{told[name]:,}" for name in ("base_tokens", "reasoning_tokens", "pool_tokens")]
            lines.append([mix, *counts, f"{told['epochs']:.1f}", *_three(rows, f"pretrain-{mix}")])
    return StudyTable(title="After pretraining (%, 95 % over seeds)", columns=columns, rows=lines)


def _fine_tuning(rows: Sequence[StudyRow], title: str, families: Sequence[str]) -> StudyTable:
    lines = [
        [mix, *(_shown(accuracies(rows, f"sft-{mix}-{chosen}", families)) for chosen in _SETS)]
        for mix in (*MIXES, *CONTROLS)
    ]
    lines = [line for line in lines if any(entry != _NONE for entry in line[1:])]
    columns = ["pretraining", *SFT_SETS, *(f"{name} doubled" for name in SFT_SETS)]
    return StudyTable(title=f"After fine-tuning on each set, {title} (%, 95 % over seeds)", columns=columns, rows=lines)


def _rewards(rows: Sequence[StudyRow]) -> StudyTable:
    lines = [
        [mix, _shown(accuracies(rows, f"sft-{mix}-{RL_SET}")), *_three(rows, f"rl-{mix}")]
        for mix in EXTREMES
        if accuracies(rows, f"rl-{mix}") is not None
    ]
    columns = ["pretraining", f"tuned on {RL_SET}", "after rewards", "narrow's", "others"]
    return StudyTable(title="After training by rewards (%, 95 % over seeds)", columns=columns, rows=lines)


def _findings(rows: Sequence[StudyRow], findings: Sequence[Finding], title: str) -> StudyTable:
    lines = []
    for one in findings:
        base, other = (
            {seed: _of(verdicts, one.families) for seed, verdicts in verdicts_by_seed(rows, name).items()}
            for name in (one.base, one.other)
        )
        if not base.keys() & other.keys():
            continue
        found = difference(base, other)
        lines.append(
            [
                one.said,
                f"{one.other} - {one.base}",
                percent_interval(found.over_seeds, signed=True),
                percent_range(found.over_questions.interval),
                verdict_on(one, found.over_seeds),
            ]
        )
    columns = ["finding", "difference", "over seeds", "over questions", "agrees"]
    return StudyTable(title=title, columns=columns, rows=lines)


def verdict_on(finding: Finding, interval: MeanInterval) -> str:
    """Return yes, no or unclear: the interval over seeds is on the finding's side of zero, on the other, or has both.

    A finding of no difference agrees where the interval has zero in it.
    """
    if interval.half_width is None:
        return "one seed"
    low, high = interval.mean - interval.half_width, interval.mean + interval.half_width
    if finding.sign == 0:
        return "yes" if low <= 0 <= high else "no"
    low, high = (low, high) if finding.sign > 0 else (-high, -low)
    return "yes" if low > 0 else "no" if high < 0 else "unclear"


def _families(rows: Sequence[StudyRow]) -> StudyTable:
    names = [f"pretrain-{mix}" for mix in (*MIXES, *CONTROLS)]
    names += [f"sft-{mix}-{chosen}" for mix in EXTREMES for chosen in SFT_SETS] + [f"rl-{mix}" for mix in EXTREMES]
    lines = [
        [name, *(_shown(accuracies(rows, name, (family,))) for family in FAMILIES)]
        for name in names
        if verdicts_by_seed(rows, name)
    ]
    title = f"By family (%; {', '.join(NARROW)} are the narrow data's)"
    return StudyTable(title=title, columns=["cell", *FAMILIES], rows=lines)
