"""An output folder as it is compared with others: its questions, its accuracy, its costs."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import JournalError
from latentmas_ray.report.runs import FinishedRun, load_runs
from latentmas_ray.runs.hints.rows import mean_by_question, question_of, rows_per_question
from latentmas_ray.runs.multi_seed import mean_correct, speed, speed_after_warm_up
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.summary import count_cut_off
from latentmas_ray.stats import accuracy_interval, mean_interval


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One output folder: a run, or one run per seed. Questions are those that every seed has answered."""

    name: str  # a letter
    folder: str
    config: RunConfig  # of the first seed
    seeds: tuple[int, ...]
    runs: tuple[FinishedRun, ...]  # one per seed, without those that have no answer yet
    answers: Mapping[str, tuple[Answer, ...]]  # by question, one per seed
    correct: Mapping[str, float]  # by graded question, the mean over seeds
    num_failed: int  # of all seeds together, including those without an answer
    is_complete: bool  # whether the runs of all seeds are finished

    @property
    def questions(self) -> tuple[str, ...]:
        """The ids of the questions: of those with hints, once for all of their hints."""
        return tuple(dict.fromkeys(question_of(answers[0]) for answers in self.answers.values()))

    @property
    def num_resumed(self) -> int:
        """The number of questions that the runs' times do not include."""
        return sum(run.summary.num_resumed or 0 for run in self.runs if run.summary is not None)

    @property
    def num_cut_off(self) -> int | None:
        """The number of questions, over all seeds, with a text that ended early; None if no row says so."""
        return count_cut_off(answer for answers in self.answers.values() for answer in answers)


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """One line of a comparison. Ratios are to a single agent; None without one, or if the time is unknown."""

    name: str
    folder: str
    method: str
    topology: str
    memory: str
    model: str
    seeds: tuple[int, ...]
    num_questions: int
    num_failed: int
    num_cut_off: int | None  # questions of all seeds with a text that ended early; None if no row says so
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None  # 95 %, over questions
    accuracy_half_width: float | None  # 95 %, over seeds; None for one seed
    output_tokens_per_question: float
    total_tokens_per_question: float
    questions_per_second: float | None
    questions_per_second_after_warm_up: float | None
    num_resumed: int  # questions that the times do not include
    output_tokens_to_single: float | None = None
    total_tokens_to_single: float | None = None
    speed_to_single: float | None = None


def read_compared(name: str, folder: str) -> ComparedRun:
    """Read an output folder. Raises JournalError if it has no run, no answer, or seeds of different runs."""
    found = load_runs(folder)
    runs = tuple(run for run in found if run.answers)
    if not runs:
        raise JournalError("run", folder, "it has no answers yet; wait for some, or leave it out")
    by_run = [{answer.id: answer for answer in run.answers} for run in runs]
    shared = [question for question in by_run[0] if all(question in answers for answers in by_run)]
    compared = ComparedRun(
        name=name,
        folder=folder,
        config=runs[0].config,
        seeds=tuple(run.config.seed for run in runs),
        runs=runs,
        answers={question: tuple(answers[question] for answers in by_run) for question in shared},
        correct=mean_correct([run.answers for run in runs]),
        num_failed=sum(len(run.failures) for run in found),
        is_complete=all(run.summary is not None for run in found),
    )
    check_same_questions([compared])
    return compared


def check_same_questions(runs: Iterable[ComparedRun]) -> None:
    """Raise JournalError if one id has two questions or two golds."""
    known: dict[str, tuple[Answer, Path]] = {}
    for run in runs:
        for single in run.runs:
            for answer in single.answers:
                other, folder = known.setdefault(answer.id, (answer, single.folder))
                for field, value, was in (
                    ("gold", answer.gold, other.gold),
                    ("question", answer.question, other.question),
                ):
                    if value != was:
                        expected = f"in {folder} it is {was!r}; compare runs of the same task"
                        raise JournalError(f"{single.folder}: {field} of {answer.id}", str(value), expected)


def figures_of(run: ComparedRun, single: ComparedRun | None) -> RunFigures:
    """Return the figures of a run, with ratios to `single` if there is one."""
    summaries = [one.summary for one in run.runs if one.summary is not None]
    accuracies = [
        fmean(share for question, share in mean_by_question(one.answers).items() if question in run.correct)
        for one in run.runs
        if run.correct
    ]
    return RunFigures(
        name=run.name,
        folder=run.folder,
        method=run.config.method,
        topology=run.config.topology,
        memory=run.config.memory,
        model=run.config.model_names,
        seeds=run.seeds,
        num_questions=len(run.questions),
        num_failed=run.num_failed,
        num_cut_off=run.num_cut_off,
        accuracy=fmean(run.correct.values()) if run.correct else None,
        accuracy_interval=accuracy_interval([*run.correct.values()]) if run.correct else None,
        accuracy_half_width=mean_interval(accuracies).half_width if accuracies else None,
        output_tokens_per_question=_tokens(run, run.questions, _output_of),
        total_tokens_per_question=_tokens(run, run.questions, _total_of),
        questions_per_second=_speed(run),
        questions_per_second_after_warm_up=_per_question(run, speed_after_warm_up(summaries)[1]),
        num_resumed=run.num_resumed,
        **({} if single is None else _to_single(run, single)),
    )


def single_for(run: ComparedRun, runs: Sequence[ComparedRun]) -> ComparedRun | None:
    """Return the first run of a single agent on the same task with the same model, if any."""
    return next(
        (
            other
            for other in runs
            if other.config.method == "single"
            and (other.config.task, other.config.model_names) == (run.config.task, run.config.model_names)
        ),
        None,
    )


def _to_single(run: ComparedRun, single: ComparedRun) -> dict[str, float | None]:
    """Return the ratios of costs, over the questions that both have answered."""
    shared = set(run.questions) & set(single.questions)
    own, others = _speed(run), _speed(single)
    return {
        "output_tokens_to_single": _ratio(_tokens(run, shared, _output_of), _tokens(single, shared, _output_of)),
        "total_tokens_to_single": _ratio(_tokens(run, shared, _total_of), _tokens(single, shared, _total_of)),
        "speed_to_single": None if own is None or others is None else _ratio(own, others),
    }


def _ratio(value: float, to: float) -> float | None:
    return value / to if value and to else None


def _tokens(run: ComparedRun, questions: Collection[str], of: Callable[[Answer], int]) -> float:
    """Return the mean over these questions and all seeds of the tokens of all rows of a question."""
    counts = [of(answer) for answers in run.answers.values() for answer in answers if question_of(answer) in questions]
    return sum(counts) / (len(questions) * len(run.seeds)) if counts else 0.0


def _output_of(answer: Answer) -> int:
    return answer.output_tokens


def _total_of(answer: Answer) -> int:
    return answer.total_tokens


def _speed(run: ComparedRun) -> float | None:
    summaries = [one.summary for one in run.runs if one.summary is not None]
    return _per_question(run, speed(summaries)[1] or None)


def _per_question(run: ComparedRun, rows_per_second: float | None) -> float | None:
    """Return a speed in questions; None if it is not known yet."""
    if rows_per_second is None or not run.is_complete:
        return None
    return rows_per_second / fmean(rows_per_question(one.answers) for one in run.runs)
