"""The figures of each run in the table of results, and its gains over the runs that are its controls."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latentmas_ray.config.command import eval_command, eval_flags
from latentmas_ray.errors import JournalError
from latentmas_ray.report.compare import Gain, find_gains
from latentmas_ray.report.compared_run import ComparedRun, check_same_questions, figures_of
from latentmas_ray.report.published import task_title
from latentmas_ray.runs.environment import versions_line
from latentmas_ray.runs.journal import TOPOLOGY_NAME

# Shown in columns of their own.
_OWN_COLUMNS = ("task", "model", "method", "topology", "memory", "limit", "runtime")


@dataclass(frozen=True, kw_only=True)
class ResultGain:
    """The gain of a run over one of its controls, in fractions of the questions that both have."""

    kind: str
    control: str  # its folder
    difference: float
    interval: tuple[float, float]  # 95 %
    num_questions: int


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One run, or one run with several seeds. Times are those of all seeds together; None: not known."""

    folder: str
    model: str
    task: str
    method: str
    memory: str
    topology: str
    settings: str  # flags that are not the default
    num_seeds: int
    num_questions: int
    num_failed: int
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None  # 95 %, over questions
    gains: tuple[ResultGain, ...]
    output_tokens: float  # per question
    total_tokens: float  # per question: prompts, latent steps and output of all agents
    seconds: float
    questions_per_second: float | None
    versions: str
    hardware: str
    command: str
    remark: str  # what the command does not say

    def to_json(self) -> dict[str, Any]:
        """Return an object for JSON."""
        return asdict(self)


def result_rows(runs: Sequence[ComparedRun]) -> tuple[ResultRow, ...]:
    """Return a row for each finished run, ordered by task, model, topology and method."""
    gains = [gain for group in _comparable(runs) for gain in find_gains(group)]
    rows = [_row(run, tuple(gain for gain in gains if gain.pair.other == run.name)) for run in runs]
    return tuple(sorted(rows, key=lambda row: (row.task, row.model, row.topology, row.method, row.memory, row.folder)))


def _row(run: ComparedRun, gains: Sequence[Gain]) -> ResultRow:
    config, figures = run.config, figures_of(run, None)
    summaries = [one.summary for one in run.runs if one.summary is not None]
    flags = eval_flags(config, run.seeds)
    made = summaries[0].made_with if summaries else {}
    own = config.topology.lower().endswith((".yaml", ".yml")) or (run.runs[0].folder / TOPOLOGY_NAME).exists()
    again = f"latentmas eval --config {run.runs[0].folder}" if own else ""
    return ResultRow(
        folder=run.folder,
        model=config.model_names,
        task=task_title(config.task),
        method=config.method,
        memory=config.memory,
        topology=config.topology,
        settings=" ".join(text for name, text in flags.items() if name not in _OWN_COLUMNS),
        num_seeds=len(run.seeds),
        num_questions=figures.num_questions,
        num_failed=figures.num_failed,
        accuracy=figures.accuracy,
        accuracy_interval=figures.accuracy_interval,
        gains=tuple(_figures(gains)),
        output_tokens=figures.output_tokens_per_question,
        total_tokens=figures.total_tokens_per_question,
        seconds=sum(summary.seconds for summary in summaries),
        questions_per_second=figures.questions_per_second,
        versions=versions_line(made),
        hardware="; ".join(filter(None, (made.get("machine"), made.get("runtime")))),
        command=eval_command(config, run.seeds),
        remark=f"its agents are in its folder: {again} has them" if again else "",
    )


def _figures(gains: Sequence[Gain]) -> Iterator[ResultGain]:
    for gain in gains:
        if (paired := gain.pair.paired) is not None:
            yield ResultGain(
                kind=gain.kind,
                control=gain.pair.base,
                difference=paired.difference,
                interval=paired.interval,
                num_questions=paired.num_questions,
            )


def _comparable(runs: Sequence[ComparedRun]) -> list[list[ComparedRun]]:
    """Return groups of runs of the same model on the same questions. A file of questions may have changed from one run
    to the next."""
    groups: list[list[ComparedRun]] = []
    for run in runs:
        group = next((group for group in groups if _has_same_questions(run, group)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def _has_same_questions(run: ComparedRun, group: Sequence[ComparedRun]) -> bool:
    if (run.config.task, run.config.model_names) != (group[0].config.task, group[0].config.model_names):
        return False
    try:
        check_same_questions([run, *group])
    except JournalError:
        return False
    return True
