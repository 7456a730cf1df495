"""The cells of the study: maps that are trained, and teams that answer with each."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from examples.training.adapters.fit import train_map
from examples.training.adapters.judge import judge_map
from examples.training.adapters.settings import TRAINED, AdapterSettings, MapKind, Setting, parse_teams, team_name
from examples.training.studies.cell import CellResult, CellRun, StudyCell
from latentmas_ray.errors import ConfigError

_LEAST_QUESTIONS = 2  # of which each can have the other's memory
_MINUTE: Mapping[str, Any] = {"batch_size": 2, "num_batches": 4, "num_steps": 3, "latent_steps": 20}
_MINUTE_QUESTIONS = 8


def add_flags(parser: ArgumentParser) -> None:
    """Add the study's own flags."""
    parser.add_argument(
        "--teams",
        default="tiny+small,small+tiny",
        help="experts' and answering agent's model of each team (default: tiny+small,small+tiny); experts may have any "
        "model folder",
    )
    parser.add_argument("--limit", default="1000", metavar="N", help="questions (default: 1000)")


FLAGS = frozenset({"teams", "limit"})


def make_cells(given: Namespace) -> list[StudyCell]:
    """Return the cells for these flags. Raises ConfigError, ModelError."""
    limit = _questions(given.limit)
    limit = min(limit, _MINUTE_QUESTIONS) if given.minute else limit
    seeds: Sequence[int] = list(given.seeds)[:1] if given.minute else list(given.seeds)
    cells: list[StudyCell] = []
    readers: set[str] = set()
    for writer, reader in parse_teams(given.teams):
        sizes: Mapping[str, Any] = _MINUTE if given.minute else {}
        free = AdapterSettings(writer=writer, reader=reader, kind="free", **sizes)
        cells += _judge_cells(free, seeds[0], limit, ())
        for seed in seeds:
            for kind in TRAINED:
                own = AdapterSettings(writer=writer, reader=reader, kind=kind, **sizes)
                name = f"{team_name(writer, reader)}-{kind}-{seed}"
                after = (f"{team_name(writer, reader)}-words-{seed}",) if kind == "both" else ()
                cells.append(StudyCell(name=name, seed=seed, settings={"part": "train", **own.to_json()}, after=after))
                cells += _judge_cells(own, seed, limit, (name,), is_first=seed == seeds[0])
        if reader not in readers:
            readers.add(reader)
            settings = {"part": "judge", "reader": reader, "alone": False, "controls": ["none"], "limit": limit}
            cells.append(StudyCell(name=f"{reader}-none", seed=seeds[0], settings=settings))
    return cells


def run_cell(run: CellRun) -> CellResult:
    """Compute one cell."""
    return train_map(run) if run.cell.settings["part"] == "train" else judge_map(run)


def _judge_cells(
    settings: AdapterSettings, seed: int, limit: int, after: tuple[str, ...], *, is_first: bool = True
) -> Iterator[StudyCell]:
    """Yield what is answered with a map: the first seed has all settings and controls, the others those of thoughts
    alone. Which texts a map was trained on is asked of thoughts alone."""
    name = after[0] if after else f"{team_name(settings.writer, settings.reader)}-free"
    named: dict[str, Any] = {"part": "judge", **settings.to_json(), "limit": limit}
    for setting, controls in _controls(settings.kind, is_first=is_first):
        own = {**named, "alone": setting == "alone", "controls": controls}
        yield StudyCell(name=f"{name}-{setting}", seed=seed, settings=own, after=after)


def _controls(kind: MapKind, *, is_first: bool) -> Iterator[tuple[Setting, list[str]]]:
    extra = ["noise"] if is_first and kind != "unseen" else []
    yield "alone", ["matched", "deranged", *extra]
    if is_first and kind != "unseen":
        yield "all", ["matched", "deranged"]


def _questions(text: str) -> int:
    if not text.isdecimal() or int(text) < _LEAST_QUESTIONS:
        raise ConfigError("limit", text, f"it must be a number of questions, at least {_LEAST_QUESTIONS}")
    return int(text)
