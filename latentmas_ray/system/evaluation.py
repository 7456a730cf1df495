"""Evaluation of a task with a journal: once, or with several seeds or numbers of latent steps.

`system.controls` evaluates a task under several memory controls in the same ways.
"""

import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from latentmas_ray.config import RunConfig, is_url, make_config, most_steps
from latentmas_ray.errors import ConfigError, JournalError
from latentmas_ray.placement.prediction.run_layout import LayoutSpeed, SpeedMeter
from latentmas_ray.runs.accounting import busy_seconds
from latentmas_ray.runs.controls.names import check_no_controls
from latentmas_ray.runs.decisions.decide import DecisionSettings
from latentmas_ray.runs.environment import describe_environment
from latentmas_ray.runs.folder import check_folder_name
from latentmas_ray.runs.hints.figures import hint_figures
from latentmas_ray.runs.journal import CONFIG_NAME, Journal
from latentmas_ray.runs.multi_seed import (
    SeedRun,
    SeedsJournal,
    check_no_seeds,
    config_of,
    summarise_seeds,
)
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import LayoutMeasured, Observer, RunEvent
from latentmas_ray.runs.store import open_output
from latentmas_ray.runs.summary import WarmUp, summarise
from latentmas_ray.scheduler.batch import Batch, plan_batches
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.scheduler.run import Result
from latentmas_ray.seeds import parse_seeds
from latentmas_ray.system.deciding import decide_answers
from latentmas_ray.system.drivers.journals import finish_folders, take_over
from latentmas_ray.system.memory_folder import MemoryFolder
from latentmas_ray.tasks.question import Question

RunBatches = Callable[[RunConfig, Sequence[Question], Sequence[Batch], Observer | None], Generator[Result, None, None]]
OnSeed = Callable[[int], None]
_STEPS_FOLDER = re.compile(r"latent-steps-(0|[1-9]\d{0,5})", re.ASCII)
_USUAL_ENGINE = "transformers"
_STEPS_FORM = "it must be different whole numbers of at least 0, as in [0, 10, 40]"


class Evaluated(NamedTuple):
    """A summary, and the answers that it is of: of the run, or of each seed."""

    summary: Any  # Summary, SeedsSummary or ControlsSummary
    answers: Sequence[Sequence[Answer]]


# Opens the output of one configuration, of these seeds; the function that it yields evaluates it.
Opened = Callable[[RunConfig, Sequence[int] | None, OnSeed], AbstractContextManager[Callable[[], Evaluated]]]


class Evaluation:
    """Answers and grades the questions of a task."""

    def __init__(
        self,
        config: RunConfig,
        questions: Sequence[Question],
        *,
        pinned: Mapping[str, str],
        topology: str | None = None,
        check: Callable[[RunConfig], None],
        start: Callable[[int], RuntimeInfo],
        run: RunBatches,
        decide: DecisionSettings | None = None,
        observe: Callable[[RunEvent], None] = lambda event: None,
    ) -> None:
        """`pinned` has the facts, besides the configuration, that a resumed run must share with the first; `topology`
        is the text of one that is not built in. `check` raises ConfigError for a number of latent steps that does not
        fit. `start` starts the runtime for a number of batches; `run` answers the questions of batches; `decide`
        makes one answer of several. `observe` gets what a run measures of itself."""
        self._config = config
        self._questions = questions
        self._pinned, self._topology = dict(pinned), topology
        self._check = check
        self._start, self._run, self._observe = start, run, observe
        self._decision = decide or DecisionSettings()

    @property
    def questions(self) -> Sequence[Question]:
        """The questions, as the configured control changes them."""
        return self._questions

    def start(self, num_batches: int) -> RuntimeInfo:
        """Start the runtime for so many batches. Raises the errors of `Runtime.start`."""
        return self._start(num_batches)

    def answer_batches(
        self,
        numbers: Set[int],
        done: Iterable[str],
        folder: Path,
        *,
        named: Callable[[Observer], Observer],
        on_failure: Callable[[Failure], None],
    ) -> None:
        """Answer the questions of the batches with these numbers, but those that are `done`, as one of several drivers.

        The answers become rows of a journal in `folder`, which may have some already. `named` returns the observer to
        use in place of the one that records the timeline. Raises JournalError, RunError kinds.
        """
        config = self._config.model_copy(update={"output": str(folder), "resume": True})
        memories = MemoryFolder.of(config.save_memory)
        with Journal.open(folder, config, self._questions, pinned=self._pinned, topology=self._topology) as journal:
            known = {*done, *(answer.id for answer in journal.answers)}
            batches = [one for one in plan_batches(self._questions, config.batch_size, known) if one.number in numbers]
            with closing(self._results(config, batches, named(journal.timeline))) as results:
                for result in results:
                    if isinstance(result, Failure):
                        on_failure(result)
                    else:
                        journal.record(memories.save(result, returns_memory=False))

    def run(self, seeds: str | Sequence[int] | None, latent_steps: Sequence[int] | None, on_seed: OnSeed) -> Any:
        """Evaluate, see `evaluate_settings`: returns a Summary, or a SeedsSummary with `seeds`."""
        return evaluate_settings(self._config, self._check, self.opened, seeds, latent_steps, on_seed)

    @contextmanager
    def opened(
        self, config: RunConfig, seeds: Sequence[int] | None, on_seed: OnSeed
    ) -> Iterator[Callable[[], Evaluated]]:
        """Open the output of one configuration; yields the function that evaluates it."""
        if config.output is not None:
            check_no_steps(config.output)
            check_no_controls(config.output)
        if seeds is not None:
            configs = {seed: config_of(config, seed) for seed in seeds}
            with SeedsJournal(config.output, configs, self._questions, self._pinned, self._topology) as journals:
                yield partial(self._answer_seeds, config, configs, journals, on_seed)
        elif config.output is None:
            yield lambda: _evaluated(self._answer_all(config, None))
        else:
            with open_output(config.output) as output:
                check_no_seeds(output.folder)
                with Journal.open(
                    output.folder, config, self._questions, pinned=self._pinned, topology=self._topology
                ) as journal:
                    output.start()
                    yield lambda: _evaluated(self._answer_all(config, journal))

    def _answer_seeds(
        self, config: RunConfig, configs: Mapping[int, RunConfig], journals: SeedsJournal, on_seed: OnSeed
    ) -> Evaluated:
        runs = {}
        for seed, own in configs.items():
            on_seed(seed)
            runs[seed] = self._answer_all(own, journals.of(seed))
        summary = summarise_seeds(config, runs)
        journals.finish(summary)
        return Evaluated(summary, [run.answers for run in runs.values()])

    def _answer_all(self, config: RunConfig, journal: Journal | None) -> SeedRun:
        if journal:
            take_over(journal, config, self._questions, self._pinned)
        answers = journal.answers if journal else []
        failures: list[Failure] = []
        num_resumed = len(answers)
        batches = plan_batches(self._questions, config.batch_size, {answer.id for answer in answers})
        info = self._start(len(batches)) if batches else None
        if journal and info is not None:
            journal.pin("engine", _engines_text(info), before=_USUAL_ENGINE)
        if info is not None and info.layout is not None:
            config = config.model_copy(update=dict(info.layout.fields))
            if journal:
                journal.note(info.layout.fields)
        measured = _MeasuredRun(info, config, self._observe)
        warm_up = WarmUp(
            [[question.id for question in batch.open_questions] for batch in batches], config.most_replicas
        )
        folder = MemoryFolder.of(config.save_memory)
        start = time.perf_counter()
        recorder = journal.timeline if journal else None
        # Drivers have their own journals in the folder of the run's, also where its output is a URL.
        where = {"output": str(journal.folder)} if journal and config.drivers > 1 else {}
        with closing(self._results(config.model_copy(update=where), batches, recorder)) as results:
            for result in results:
                warm_up.add(result, time.perf_counter() - start)
                measured.add(result, warm_up)
                result = folder.save(result, returns_memory=False)
                if journal:
                    journal.record(result)
                if isinstance(result, Failure):
                    failures.append(result)
                else:
                    answers.append(result)
        seconds = time.perf_counter() - start
        if journal:
            finish_folders(journal)
        answers = decide_answers(answers, self._questions, replace(self._decision, seed=config.seed))
        if journal:
            journal.replace(answers)
        summary = summarise(
            answers,
            failures,
            config=config,
            seconds=seconds,
            num_resumed=num_resumed,
            warm_up=warm_up,
            made_with=describe_environment(config.runtime, info.description if info else None),
            layout_speed=measured.speed(),
            hints=hint_figures(answers, {one.id: one for one in self._questions}, seed=config.seed),
        )
        if journal:
            summary = journal.finish(summary)
        return SeedRun(summary, answers)

    def _results(
        self, config: RunConfig, batches: Sequence[Batch], recorder: Observer | None
    ) -> Generator[Answer | Failure, None, None]:
        if batches:
            with closing(self._run(config, self._questions, batches, recorder)) as results:
                yield from (result for result in results if isinstance(result, Answer | Failure))


def evaluate_settings(
    config: RunConfig,
    check: Callable[[RunConfig], None],
    opened: Opened,
    seeds: str | Sequence[int] | None,
    latent_steps: Sequence[int] | None,
    on_seed: OnSeed,
) -> Any:
    """Evaluate once, or once for each number of `latent_steps` (a dictionary), of `seeds`, or of both; `check` raises
    ConfigError for a number that does not fit. Returns the summary, or one for each number of latent steps.

    All outputs are opened first, so that their errors are raised before anything starts. Raises
    ConfigError, JournalError, RunError kinds.
    """
    numbers = None if seeds is None else parse_seeds(seeds)
    if config.output is not None and not is_url(config.output):
        check_folder_name(config.output)
    if latent_steps is None:
        with opened(config, numbers, on_seed) as evaluate:
            return evaluate().summary
    configs = _configs_by_steps(config, latent_steps)
    for own in configs.values():
        check(own)
    _check_no_single_run(config.output)
    if config.output is not None:
        check_no_seeds(Path(config.output))
        check_no_controls(config.output)
    with ExitStack() as stack:
        every = {steps: stack.enter_context(opened(own, numbers, on_seed)) for steps, own in configs.items()}
        return {steps: evaluate().summary for steps, evaluate in every.items()}


def _evaluated(run: SeedRun) -> Evaluated:
    return Evaluated(run.summary, [run.answers])


class _MeasuredRun:
    """What a run reaches with the layout that a search has chosen; does nothing without one, and in runs with another
    number of latent steps than it was predicted for."""

    def __init__(self, info: RuntimeInfo | None, config: RunConfig, observe: Callable[[RunEvent], None]) -> None:
        """`config` has the replicas of the layout."""
        layout = None if info is None else info.layout
        is_predicted = layout is not None and layout.latent_steps == most_steps(config.latent_steps)
        self._meter = SpeedMeter(layout) if layout is not None and is_predicted else None
        self._num_first = config.most_replicas * config.batch_size  # answers after the warm-up until it is reported
        self._observe = observe
        self._last = 0.0

    def add(self, result: Answer | Failure, warm_up: WarmUp) -> None:
        """Count a result that `warm_up` has counted."""
        if self._meter is None or warm_up.seconds is None:
            return
        self._last = time.perf_counter()
        if not warm_up.num_answers_after:
            self._meter.begin(self._last)
        elif isinstance(result, Answer):
            self._meter.add(busy_seconds(result))
            if self._meter.num_answers == self._num_first and (speed := self.speed()) is not None:
                self._observe(LayoutMeasured(speed=speed))

    def speed(self) -> LayoutSpeed | None:
        """Return what was reached up to the last answer."""
        return None if self._meter is None else self._meter.measure(self._last)


def _engines_text(info: RuntimeInfo) -> str:
    """Return what writes the texts, as a resumed run must have it: another engine rounds otherwise."""
    return ", ".join(f"{agent}={engine}" for agent, engine in sorted(info.engines.items())) or _USUAL_ENGINE


def _configs_by_steps(config: RunConfig, latent_steps: Sequence[int]) -> dict[int, RunConfig]:
    """Return the configuration for each number of latent steps, with its own folders. Raises ConfigError."""
    if not isinstance(latent_steps, Sequence) or isinstance(latent_steps, str | bytes):
        raise ConfigError("latent_steps", latent_steps, _STEPS_FORM)
    if not latent_steps or len(set(latent_steps)) < len(latent_steps) or not all(type(m) is int for m in latent_steps):
        raise ConfigError("latent_steps", ",".join(map(str, latent_steps)), _STEPS_FORM)
    configs = {}
    for steps in latent_steps:
        own = config.with_folders(partial(_steps_output, steps=steps), latent_steps=steps)
        configs[steps] = make_config(own.model_dump())
    return configs


def _steps_output(output: str, steps: int) -> str:
    return f"{output.rstrip('/')}/latent-steps-{steps}"  # as _STEPS_FOLDER


def _check_no_single_run(output: str | None) -> None:
    if output is not None and not is_url(output) and (Path(output) / CONFIG_NAME).exists():
        expected = f"it holds the {CONFIG_NAME} of a run with one number of latent steps; choose another folder"
        raise JournalError("output", output, expected)


def check_no_steps(output: str) -> None:
    """Raise JournalError for a folder with runs of several numbers of latent steps: no other run may be written
    there."""
    if is_url(output) or not (folder := Path(output)).is_dir():
        return
    found = sorted(int(match[1]) for path in folder.iterdir() if (match := _STEPS_FOLDER.fullmatch(path.name)))
    if found:
        there = ", ".join(map(str, found))
        expected = f"it holds runs with {there} latent steps; give latent_steps as a list, or choose another folder"
        raise JournalError("output", output, expected)
