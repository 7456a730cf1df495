"""A run repeated with several seeds: one journal for each, and a summary over all of them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, NamedTuple, Self

from latentmas_ray.config import RunConfig, describe_models
from latentmas_ray.errors import JournalError
from latentmas_ray.runs.controls.adoption import AdoptionFigures, adoption_figures
from latentmas_ray.runs.folder import check_regular, make_folder, write_summary
from latentmas_ray.runs.hints.rows import mean_by_question
from latentmas_ray.runs.journal import CONFIG_NAME, RESULTS_NAME, SUMMARY_NAME, Journal
from latentmas_ray.runs.results import Answer, Summary
from latentmas_ray.runs.store import Output, open_output
from latentmas_ray.runs.summary import adoptions, count_cut_off, count_numbers_from
from latentmas_ray.seeds import seed_folders, seed_output
from latentmas_ray.stats import accuracy_interval, mean_interval
from latentmas_ray.tasks.question import Question


class SeedRun(NamedTuple):
    """The result of one seed."""

    summary: Summary
    answers: Sequence[Answer]


@dataclass(frozen=True, kw_only=True)
class SeedsSummary:
    """The summary of a run that was repeated with several seeds: `summary.json` in the parent of their folders."""

    seeds: tuple[int, ...]
    method: str
    topology: str
    model: str
    memory: str
    num_questions: int  # of each seed
    num_failed: int  # in all seeds together
    accuracy: float | None  # mean over the seeds; None if nothing could be graded
    accuracy_half_width: float | None  # accuracy ± this is the 95 % interval over seeds; None for one seed
    question_interval: tuple[float, float] | None  # 95 %, over questions, from each question's mean over seeds
    prompt_tokens_per_question: float  # this and the next: means over the seeds that have an answer
    latent_steps_per_question: float
    output_tokens_per_question: float
    seconds: float  # of all seeds together
    questions_per_second: float
    seconds_after_warm_up: float | None
    questions_per_second_after_warm_up: float | None
    runs: Mapping[int, Summary]  # by seed
    num_cut_off: int | None = None  # in all seeds together; None if none says so
    adoption: AdoptionFigures | None = None  # with memory corrupted: means over the seeds
    numbers_from: Mapping[str, int] = field(default_factory=dict)  # in all seeds together
    models: Mapping[str, str] = field(default_factory=dict)  # of agents that have another model

    @property
    def model_names(self) -> str:
        """All models of the runs in one text."""
        return describe_models(self.model, self.models)

    def to_json(self) -> dict[str, Any]:
        """The object of summary.json."""
        return {**asdict(self), "runs": {str(seed): summary.to_json() for seed, summary in self.runs.items()}}


class SeedsJournal:
    """The output of all seeds: one journal in one folder for each, and summary.json in the parent folder. All journals
    are opened first, so that errors are raised before anything starts. Without an output nothing is written."""

    def __init__(
        self,
        output: str | None,
        configs: Mapping[int, RunConfig],
        questions: Sequence[Question],
        pinned: dict[str, str],
        topology: str | None = None,
    ) -> None:
        """`configs` has the configuration of each seed; `pinned` and `topology` are those of `Journal.open`. Raises
        JournalError."""
        self._stack = ExitStack()
        self._root: Output | None = None
        self._journals: dict[int, Journal] = {}
        if output is None:
            return
        with ExitStack() as stack:
            self._root = stack.enter_context(open_output(output))
            _check_root(self._root.folder, output, configs)
            check_regular([self._root.folder / SUMMARY_NAME])
            outputs = {
                seed: stack.enter_context(open_output(config.output or seed_output(output, seed)))
                for seed, config in configs.items()
            }
            # First those that may raise: then nothing is created for the others.
            for seed, own in sorted(outputs.items(), key=lambda one: not (one[1].folder / RESULTS_NAME).exists()):
                journal = Journal.open(own.folder, configs[seed], questions, pinned=pinned, topology=topology)
                self._journals[seed] = stack.enter_context(journal)
                own.start()
            (self._root.folder / SUMMARY_NAME).unlink(missing_ok=True)  # `finish` writes it again
            self._root.start()
            self._stack = stack.pop_all()

    def of(self, seed: int) -> Journal | None:
        """Return the journal of one seed; None without an output."""
        return self._journals.get(seed)

    def finish(self, summary: SeedsSummary) -> None:
        """Write the summary over all seeds. Raises RunError if it cannot be written."""
        if self._root is not None:
            write_summary(self._root.folder / SUMMARY_NAME, summary.to_json())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def config_of(config: RunConfig, seed: int) -> RunConfig:
    """Return the configuration of one seed's run, with its own folders."""
    return config.with_folders(lambda folder: seed_output(folder, seed), seed=seed)


def check_no_seeds(folder: Path) -> None:
    """Raise JournalError if `folder` holds runs with seeds: a single run must not be written there."""
    if found := seed_folders(folder):
        there = ", ".join(map(str, found))
        raise JournalError(
            "output", str(folder), f"it holds runs with seeds {there}; add them as seeds, or choose another"
        )


def summarise_seeds(config: RunConfig, runs: Mapping[int, SeedRun]) -> SeedsSummary:
    """Return the summary over all seeds; `runs` must have at least one."""
    summaries = [run.summary for run in runs.values()]
    accuracies = [summary.accuracy for summary in summaries if summary.accuracy is not None]
    seed_interval = mean_interval(accuracies) if len(accuracies) == len(runs) else None
    by_question = mean_correct([run.answers for run in runs.values()])
    answered = [run.summary for run in runs.values() if run.answers] or summaries
    seconds, per_second = speed(summaries)
    after, per_second_after = speed_after_warm_up(summaries)
    return SeedsSummary(
        seeds=tuple(runs),
        method=config.method,
        topology=config.topology,
        model=config.model,
        models=config.models,
        memory=config.memory,
        num_questions=max(summary.num_questions for summary in summaries),
        num_failed=sum(summary.num_failed for summary in summaries),
        accuracy=None if seed_interval is None else seed_interval.mean,
        accuracy_half_width=None if seed_interval is None else seed_interval.half_width,
        question_interval=accuracy_interval([*by_question.values()]) if by_question else None,
        prompt_tokens_per_question=fmean(summary.prompt_tokens_per_question for summary in answered),
        latent_steps_per_question=fmean(summary.latent_steps_per_question for summary in answered),
        output_tokens_per_question=fmean(summary.output_tokens_per_question for summary in answered),
        seconds=seconds,
        questions_per_second=per_second,
        seconds_after_warm_up=after,
        questions_per_second_after_warm_up=per_second_after,
        runs={seed: run.summary for seed, run in runs.items()},
        num_cut_off=count_cut_off(answer for run in runs.values() for answer in run.answers),
        numbers_from=count_numbers_from(answer for run in runs.values() for answer in run.answers),
        adoption=adoption_figures([adoptions(run.answers) for run in runs.values()]),
    )


def mean_correct(runs: Sequence[Sequence[Answer]]) -> dict[str, float]:
    """Return, by question id, the mean of `correct` over the runs, and over hints where there are any, for questions
    that were graded in all of them."""
    graded = [mean_by_question(answers) for answers in runs]
    return {
        name: fmean(correct[name] for correct in graded) for name in graded[0] if all(name in each for each in graded)
    }


def speed(summaries: Sequence[Summary]) -> tuple[float, float]:
    """Return the seconds of all seeds together, and the questions per second."""
    seconds = sum(summary.seconds for summary in summaries)
    count = sum(summary.questions_per_second * summary.seconds for summary in summaries)
    return seconds, count / seconds if seconds > 0 else 0.0


def speed_after_warm_up(summaries: Sequence[Summary]) -> tuple[float | None, float | None]:
    """Return the same without the warm-ups; None if no question followed them."""
    timed = [
        (summary.seconds_after_warm_up, summary.questions_per_second_after_warm_up * summary.seconds_after_warm_up)
        for summary in summaries
        if summary.seconds_after_warm_up and summary.questions_per_second_after_warm_up is not None
    ]
    seconds = sum(taken for taken, _ in timed)
    return (seconds, sum(count for _, count in timed) / seconds) if timed else (None, None)


def _check_root(folder: Path, output: str, configs: Mapping[int, RunConfig]) -> None:
    """Create the folder of all seeds. Raises JournalError if it holds a single run, or other seeds."""
    make_folder(folder)
    if found := [name for name in (CONFIG_NAME, RESULTS_NAME) if (folder / name).exists()]:
        expected = f"it holds the {found[0]} of a run without seeds; choose another folder"
        raise JournalError("output", output, expected)
    if others := [str(seed) for seed in seed_folders(folder) if seed not in configs]:
        expected = f"it holds runs with seeds {', '.join(others)} too; name them as well, or choose another folder"
        raise JournalError("output", output, expected)
