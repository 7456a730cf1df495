"""The tables of the study: what each map of thoughts is worth, by team."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from examples.training.adapters.settings import MapKind, Setting
from examples.training.studies.folder import StudyRow
from examples.training.studies.intervals import (
    accuracy_over_questions,
    accuracy_over_seeds,
    difference,
    percent,
    percent_interval,
    percent_range,
)
from examples.training.studies.table import StudyTable

_KINDS: Mapping[MapKind, str] = {
    "free": "no training",
    "words": "words",
    "unseen": "words, other names",
    "answers": "answers",
    "both": "words, then answers",
}
_SETTINGS: Mapping[Setting, str] = {"alone": "thoughts alone", "all": "prompts and thoughts"}
Verdicts = Mapping[int, str]  # by seed


def make_tables(rows: Sequence[StudyRow]) -> list[StudyTable]:
    """Return a table for each team and setting, and one of the training."""
    teams = dict.fromkeys(_team(row) for row in rows if "writer" in row.settings)
    tables = [
        _setting_table(rows, team, setting)
        for team in teams
        for setting in _SETTINGS
        if _verdicts(rows, team, "free", setting, "matched")
    ]
    return [*tables, *([_training_table(rows)] if any(row.settings["part"] == "train" for row in rows) else [])]


def _setting_table(rows: Sequence[StudyRow], team: str, setting: Setting) -> StudyTable:
    reader = next(row.settings["reader"] for row in rows if "writer" in row.settings and _team(row) == team)
    nothing = _of_cells(rows, f"{reader}-none", "none")
    free = _verdicts(rows, team, "free", setting, "matched")
    found: list[list[str | float]] = []
    for kind, title in _KINDS.items():
        matched = _verdicts(rows, team, kind, setting, "matched")
        if not matched:
            continue
        deranged = _verdicts(rows, team, kind, setting, "deranged")
        noise = _verdicts(rows, team, kind, setting, "noise")
        # The map that needs no training has no seeds: it is the same next to each.
        same = {seed: next(iter(free.values())) for seed in matched}
        found.append(
            [
                title,
                len(matched),
                _accuracy(matched),
                _accuracy(deranged),
                _accuracy(noise),
                _accuracy(nothing),
                _gain(deranged, matched),
                "" if kind == "free" else _gain(same, matched),
            ]
        )
    columns = ["map", "seeds", "matched", "deranged", "noise", "none", "P: matched − deranged", "over no training"]
    return StudyTable(title=f"{team}: {_SETTINGS[setting]}", columns=columns, rows=found)


def _training_table(rows: Sequence[StudyRow]) -> StudyTable:
    """What maps give on notes of their own kind that none was trained on, token by token, and their CPU seconds."""
    found: list[list[str | float]] = []
    for row in rows:
        if row.settings["part"] == "train":
            figures, kind = row.figures, _KINDS[row.settings["kind"]]
            found.append(
                [
                    _team(row),
                    kind,
                    row.seed,
                    f"{figures['free_loss']:.3f}",
                    f"{figures['loss']:.3f}",
                    percent(figures["free_whole"]),
                    percent(figures["whole"]),
                    round(row.cpu_seconds),
                ]
            )
    columns = [
        "team",
        "map",
        "seed",
        "loss without training",
        "loss",
        "whole answers without",
        "whole answers",
        "CPU s",
    ]
    return StudyTable(title="Training, on notes of its own", columns=columns, rows=found)


def _team(row: StudyRow) -> str:
    return f"{Path(row.settings['writer']).name} → {row.settings['reader']}"


def _verdicts(rows: Sequence[StudyRow], team: str, kind: MapKind, setting: Setting, control: str) -> Verdicts:
    return {
        row.seed: row.figures[f"verdicts_{control}"]
        for row in rows
        if row.settings["part"] == "judge"
        and "writer" in row.settings
        and (_team(row), row.settings["kind"], row.settings["alone"]) == (team, kind, setting == "alone")
        and f"verdicts_{control}" in row.figures
    }


def _of_cells(rows: Sequence[StudyRow], name: str, control: str) -> Verdicts:
    return {row.seed: row.figures[f"verdicts_{control}"] for row in rows if row.cell == name}


def _accuracy(seeds: Verdicts) -> str:
    if not seeds:
        return ""
    return f"{percent_interval(accuracy_over_seeds(seeds))} {percent_range(accuracy_over_questions(seeds))}"


def _gain(base: Verdicts, other: Verdicts) -> str:
    if not base.keys() & other.keys():
        return ""
    found = difference(base, other)
    return f"{percent_interval(found.over_seeds, signed=True)} {percent_range(found.over_questions.interval)}"
