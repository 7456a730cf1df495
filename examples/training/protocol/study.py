"""The study of the latent protocol: its cells and tables.

Trainings come first, then the runs that judge `tiny` and what became of it. The first seed of the main training is
judged under all controls, the others where they differ most.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from examples.training.protocol.documents import ThinkingMix
from examples.training.protocol.judge import CONTROLS, TEAMS, judge_cell
from examples.training.protocol.losses import LossWeights
from examples.training.protocol.plot import draw_accuracies
from examples.training.protocol.reward import RewardTraining, reward_cell
from examples.training.protocol.train import ThoughtTraining, train_cell
from examples.training.studies.cell import CellResult, CellRun, StudyCell
from examples.training.studies.command import Study
from examples.training.studies.folder import StudyRow
from examples.training.studies.intervals import accuracy_of, percent, percent_range
from examples.training.studies.table import StudyTable
from latentmas_ray.errors import ConfigError
from latentmas_ray.stats import accuracy_interval, compare_paired

STEPS = (0, 5, 10, 20, 40, 80)
MAIN, BEFORE = "text", "tiny"
_HALF = "half"
_LEAST_QUESTIONS, _MAX_QUESTIONS = 2, 1000  # `deranged` needs another one; the tasks have so many
_FEW_STEPS = (10, 40)
_NO_AIM = ThinkingMix(aim="none")
_TRAININGS: Mapping[str, ThoughtTraining] = {
    MAIN: ThoughtTraining(num_steps=600, num_taught=120),
    # What each part is for: each lacks one thing of `half`, which is half as long as the main training.
    _HALF: ThoughtTraining(num_steps=300, num_taught=60),
    "brief": ThoughtTraining(num_steps=300, num_taught=60, taught=(6, 8, 12, 20), mix=ThinkingMix(aim="brief")),
    "answers-alone": ThoughtTraining(num_steps=300, mix=_NO_AIM, losses=LossWeights(aim=0.0)),
    "no-gradient": ThoughtTraining(num_steps=300, num_taught=60, depth=0),
    "no-guard": ThoughtTraining(num_steps=300, num_taught=60, losses=LossWeights(guard=0.0)),
}
_REWARD = RewardTraining(num_steps=150)


def compute(run: CellRun) -> CellResult:
    """Compute a cell of any kind."""
    kinds = {"training": train_cell, "reward": reward_cell, "task": judge_cell}
    return next(function for key, function in kinds.items() if key in run.cell.settings)(run)


def make_cells(given: argparse.Namespace) -> list[StudyCell]:
    """Return the cells. Raises ConfigError for a number of questions that is none."""
    if not _LEAST_QUESTIONS <= given.questions <= _MAX_QUESTIONS:
        expected = f"it must be from {_LEAST_QUESTIONS} to {_MAX_QUESTIONS}, which the tasks have"
        raise ConfigError("questions", given.questions, expected)
    return _smallest(given) if given.minute else [*_all_cells(given.seeds, given.questions)]


def _all_cells(seeds: Sequence[int], questions: int) -> Iterator[StudyCell]:
    first = seeds[0]
    for seed in seeds:
        for name, training in _TRAININGS.items():
            if seed == first or name == MAIN:
                yield StudyCell(name=f"{name}-{seed}", seed=seed, settings={"training": training.to_json()})
    after = f"{MAIN}-{first}"
    yield StudyCell(name=f"reward-{first}", seed=first, settings={"reward": _REWARD.to_json()}, after=(after,))
    full = dict.fromkeys(CONTROLS, STEPS)
    few = {"matched": _FEW_STEPS, "latent-only": _FEW_STEPS}
    yield from _judged(BEFORE, first, full, questions)
    yield from _judged(after, first, full, questions)
    for seed in seeds[1:]:
        yield from _judged(f"{MAIN}-{seed}", seed, few, questions)
    for name in _TRAININGS:
        if name != MAIN:
            yield from _judged(f"{name}-{first}", first, {**few, "deranged": (10,)}, questions)
    yield from _judged(
        f"reward-{first}", first, {"matched": (5, 10, 20, 40), "latent-only": (5, 10, 20, 40)}, questions
    )


def _judged(who: str, seed: int, plan: Mapping[str, Sequence[int]], questions: int) -> Iterator[StudyCell]:
    """The runs that judge `tiny` or the weights of a cell, one for each task and control."""
    for task in TEAMS:
        for memory, steps in plan.items():
            counts = {"none": [0], "latent-only": [count for count in steps if count]}.get(memory, [*steps])
            settings = {"task": task, "memory": memory, "steps": counts, "num_questions": questions}
            after = () if who == BEFORE else (who,)
            yield StudyCell(name=f"judge-{who}-{task}-{memory}", seed=seed, settings=settings, after=after)


def _smallest(given: argparse.Namespace) -> list[StudyCell]:
    """Every kind of cell, as small as it can be."""
    seed = given.seeds[0]
    training = replace(_TRAININGS[MAIN], num_steps=3, num_taught=1, num_rows=3, num_old_rows=1, thoughts=(3,))
    reward = replace(_REWARD, num_steps=1, num_rows=3, group_size=3, thoughts=(3,))
    name = f"{MAIN}-{seed}"
    return [
        StudyCell(name=name, seed=seed, settings={"training": training.to_json()}),
        StudyCell(name=f"reward-{seed}", seed=seed, settings={"reward": reward.to_json()}, after=(name,)),
        *(cell for who in (BEFORE, name) for cell in _judged(who, seed, dict.fromkeys(CONTROLS, (0, 2)), 8)),
    ]


def make_tables(rows: Sequence[StudyRow]) -> list[StudyTable]:
    """Return a table of accuracies for each task, one of differences to `tiny`, and one of the trainings."""
    judged = [row for row in rows if "task" in row.settings]
    trainings = [row for row in rows if "final" in row.figures]
    tables = [_accuracies(task, [row for row in judged if row.settings["task"] == task]) for task in TEAMS]
    return [*tables, _differences(judged), _trainings(trainings)]


def who_of(row: StudyRow) -> str:
    """Return whose weights a row judges."""
    return row.after[0] if row.after else BEFORE


def _accuracies(task: str, rows: Sequence[StudyRow]) -> StudyTable:
    steps = sorted({int(count) for row in rows for count in row.figures["verdicts"]})
    entries = [
        [who_of(row), row.settings["memory"], *(_accuracy(row.figures["verdicts"].get(str(count))) for count in steps)]
        for row in rows
    ]
    title = f"{task}, {TEAMS[task]}: accuracy in %, 95 % interval, by latent steps"
    return StudyTable(title=title, columns=["weights", "memory", *map(str, steps)], rows=entries)


def _accuracy(verdicts: str | None) -> str:
    if verdicts is None:
        return "–"
    return f"{percent(accuracy_of(verdicts))} {percent_range(accuracy_interval(_scores(verdicts)))}"


def _scores(verdicts: str) -> list[float]:
    return [float(one) for one in verdicts]


def _differences(judged: Sequence[StudyRow]) -> StudyTable:
    """Paired differences over questions: P and G of each, and what training changed."""
    by_cell = {
        (who_of(row), row.settings["task"], row.settings["memory"], int(steps)): verdicts
        for row in judged
        for steps, verdicts in row.figures["verdicts"].items()
    }
    entries: list[list[str | float | int]] = []
    for (who, task, memory, steps), verdicts in by_cell.items():
        bases = {
            f"P: {memory} − deranged": (who, task, "deranged", steps),
            f"G: {memory} − none": (who, task, "none", 0),
            f"{memory}, after − before": (BEFORE, task, memory, steps),
            f"{memory}, {steps} − 0 steps": (who, task, memory, 0),
        }
        if memory in ("deranged", "none"):
            bases = {name: base for name, base in bases.items() if "after" in name}
        part, _, seed = who.rpartition("-")
        if part in _TRAININGS and part not in (MAIN, _HALF):
            bases[f"{memory}, {who} − {_HALF}-{seed}"] = (f"{_HALF}-{seed}", task, memory, steps)
        if memory != "matched":
            bases = {name: base for name, base in bases.items() if name[:2] != "P:"}
        for name, base in bases.items():
            key = (who, task, memory, steps)
            if base in by_cell and base != key and len(by_cell[base]) == len(verdicts):
                found = compare_paired(_scores(by_cell[base]), _scores(verdicts))
                low, high = found.interval
                shown = f"{100 * found.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
                entries.append([who, task, steps, name, shown])
    title = "Paired differences over the same questions, in points, 95 % interval of the bootstrap"
    return StudyTable(title=title, columns=["weights", "task", "steps", "what", "difference"], rows=entries)


def _trainings(rows: Sequence[StudyRow]) -> StudyTable:
    entries = [
        [row.cell, row.figures["final"]["step"], f"{row.cpu_seconds / 60:.1f}", *_final(row.figures["final"])]
        for row in rows
    ]
    columns = ["training", "steps", "CPU minutes", "loss", "guard", "aim", "reward"]
    return StudyTable(title="Trainings: means of the last steps", columns=columns, rows=entries)


def _final(figures: Mapping[str, Any]) -> list[str]:
    return [f"{figures[name]:.3f}" if name in figures else "–" for name in ("loss", "guard", "aim", "reward")]


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--questions",
        type=int,
        default=_MAX_QUESTIONS,
        metavar="N",
        help=f"of each task that judge (default: {_MAX_QUESTIONS})",
    )


def _plot(rows: Sequence[StudyRow], path: Path) -> None:
    draw_accuracies(
        [(who_of(row), row.settings, row.figures["verdicts"]) for row in rows if "task" in row.settings], path
    )


STUDY = Study(
    name="protocol",
    purpose="Train the embedded model to read its own thoughts, and judge it before and after.",
    make_cells=make_cells,
    function=compute,
    make_tables=make_tables,
    plot=_plot,
    add_flags=_add_flags,
    flags=frozenset({"questions"}),
    seeds="1,2",
)
