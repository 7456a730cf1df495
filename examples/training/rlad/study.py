"""The study's cells, and the function that computes one.

For each seed: the warm start of both policies, RLAD from there, the control (the same solver trained alone, rewarded
for answers without a hint), and the judging of all of them.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from examples.training.rlad.actors.players import Players
from examples.training.rlad.game import Game
from examples.training.rlad.judge import Judge, conditions
from examples.training.rlad.losses import GradientSettings
from examples.training.rlad.policy import load_policy
from examples.training.rlad.settings import MINUTE, JudgeSettings, PlaySettings, RladSettings, WarmSettings
from examples.training.rlad.task.prompts import HINTER, POLICIES, SOLVER
from examples.training.rlad.warm_start import warm_start
from examples.training.studies.cell import CellResult, CellRun, StudyCell
from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home

TRAININGS = ("warm", "rlad", "alone")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this study."""
    parser.add_argument(
        "--start",
        metavar="DIR",
        help="begin at the policies in DIR/hinter and DIR/solver, which examples.training.rlad.export wrote, instead "
        "of a warm start; on a cluster every node reads DIR",
    )
    parser.add_argument("--workers", type=int, default=1, help="rollout workers of each training (default: 1)")


def make_cells(given: argparse.Namespace) -> list[StudyCell]:
    """Return all cells. Raises ConfigError for policies that do not fit, and for a number of workers below 1."""
    if given.workers < 1:
        raise ConfigError("workers", given.workers, "it must be at least 1")
    start = None if given.start is None else Path(expand_home("start", given.start)).absolute()
    if start is not None:
        for role in POLICIES:
            load_policy("start", role, start / role)
    settings = MINUTE if given.minute else RladSettings()
    return [cell for seed in given.seeds for cell in cells_of(settings, seed, start=start, num_workers=given.workers)]


def cells_of(settings: RladSettings, seed: int, *, start: Path | None = None, num_workers: int = 1) -> list[StudyCell]:
    """Return the cells of one seed, each after those whose weights it needs."""
    first = {role: f"warm-{role}-{seed}" for role in POLICIES}
    play = {**asdict(replace(settings.play, num_workers=num_workers))}
    trained = [f"rlad-{seed}", f"alone-{seed}"]
    origin = {} if start is None else {"start": str(start)}
    return [
        *(
            StudyCell(
                name=first[role],
                seed=seed,
                settings={"kind": "warm", "role": role, **asdict(settings.warm[role]), **origin},
            )
            for role in POLICIES
        ),
        *(
            StudyCell(name=name, seed=seed, settings={"kind": name.split("-")[0], **play}, after=tuple(first.values()))
            for name in trained
        ),
        StudyCell(
            name=f"judge-{seed}",
            seed=seed,
            settings={"kind": "judge", **asdict(settings.judge)},
            after=(*first.values(), *trained),
        ),
    ]


def compute(run: CellRun) -> CellResult:
    """Compute a cell of any kind."""
    settings = dict(run.cell.settings)
    kind = settings.pop("kind")
    if kind == "warm":
        role, start = settings.pop("role"), settings.pop("start", None)
        if start is not None:
            return CellResult(figures={}, weights=load_policy("start", role, Path(start) / role))
        return warm_start(run, role, WarmSettings(**settings))
    if kind == "judge":
        return _judge(run, JudgeSettings(**settings))
    play = PlaySettings(**{**settings, "gradient": GradientSettings(**settings["gradient"])})
    return _play(run, play, bare=kind == "alone")


def _play(run: CellRun, settings: PlaySettings, *, bare: bool) -> CellResult:
    weights = dict(zip(POLICIES, (run.weights[name] for name in run.cell.after), strict=True))
    with Players(weights, run.cell.seed, settings.num_workers) as players:
        game = Game(settings, players, run.cell.seed, bare=bare)
        if run.resumed is not None:
            game.load(run.resumed)
        while not game.is_over:
            game.advance()
            run.save(game.state)
        trained = {role: players.weights(role) for role in POLICIES}
        return CellResult(
            figures={"history": game.history, **_last_of(game.history)},
            weights=joined(trained),
            actors_cpu_seconds=game.cpu_seconds(),
        )


def _last_of(history: Sequence[Mapping[str, Any]], num: int = 10) -> dict[str, float]:
    """Return the mean success of the last steps of the solver."""
    recent = [step for step in history if step["phase"] == "solve"][-num:]
    names = ("success", "bare_success", "kl", "entropy")
    values = {name: [step[name] for step in recent if name in step] for name in names}
    return {name: sum(some) / len(some) for name, some in values.items() if some}


def _judge(run: CellRun, settings: JudgeSettings) -> CellResult:
    hinter, solver, *trained = (run.weights[name] for name in run.cell.after)
    policies: dict[str, Mapping[str, Mapping[str, Tensor]]] = {"warm": {HINTER: hinter, SOLVER: solver}}
    policies |= {name: parted(weights) for name, weights in zip(TRAININGS[1:], trained, strict=True)}
    figures: dict[str, Any] = {} if run.resumed is None else dict(run.resumed)
    with TemporaryDirectory() as folder:
        judge = Judge(Path(folder), policies, settings, run.cell.seed)
        for condition in conditions():
            for way in condition.ways:
                name = f"{condition.name}: {way}"
                if name not in figures:
                    figures[name] = judge.run(condition, way).to_json()
                    run.save(lambda: figures)
    return CellResult(figures={"conditions": figures})


def joined(weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weights of both policies as one mapping."""
    return {f"{role}/{name}": value for role, own in weights.items() for name, value in own.items()}


def parted(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return what `joined` was given."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        role, own = name.split("/", 1)
        found.setdefault(role, {})[own] = value
    return found
