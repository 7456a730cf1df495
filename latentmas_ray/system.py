"""The composition root: a configuration becomes a topology, a runtime and a driver, and questions become answers."""

import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Any, Self

from latentmas_ray.actors import LocalRuntime, RayMetrics, RayRuntime
from latentmas_ray.config import EMBEDDED_MODEL, RunConfig, make_config, replicas_by_agent
from latentmas_ray.driver import (
    Answer,
    Batch,
    Driver,
    DriverSettings,
    Failure,
    Journal,
    Observer,
    Runtime,
    RuntimeInfo,
    SilentObserver,
    Summary,
    WarmUp,
    open_output,
    plan_batches,
    summarise,
)
from latentmas_ray.driver.made_with import made_with
from latentmas_ray.driver.over_seeds import (
    SeedRun,
    SeedsJournal,
    SeedsSummary,
    config_of,
    refuse_seeds,
    summarise_seeds,
)
from latentmas_ray.engine.runner import load_runner
from latentmas_ray.env import read_environment
from latentmas_ray.errors import ActorError, ClusterError, ConfigError, RunError
from latentmas_ray.models import absolute_name, check_name
from latentmas_ray.placement.strategies import ALIKE
from latentmas_ray.seeds import parse_seeds
from latentmas_ray.tasks import check_graders, derange, load_questions, questions_from, task_max_new_tokens
from latentmas_ray.tasks.question import Question
from latentmas_ray.tasks.trained import warn_of_untrained
from latentmas_ray.topology import (
    Topology,
    apply_control,
    apply_method,
    builtin_for,
    check_prompts,
    dump_topology,
    load_topology,
)
from latentmas_ray.transport import Situation, pick_transport


class LatentMAS:
    """Several agents that answer questions together. Use it as a context manager.

        with LatentMAS(model="tiny", topology="sequential", latent_steps=40) as mas:
            for answer in mas.run(["What is 6 times 7?"]):
                print(answer.answer)

    The keywords are the fields of `RunConfig`. Models are loaded, and Ray is started, when the first question comes.
    """

    def __init__(
        self,
        config: RunConfig | None = None,
        *,
        topology: str | Topology | None = None,
        observer: Observer | None = None,
        **fields: Any,
    ) -> None:
        """Check everything that can be checked without starting anything; `topology` may be one of your own making.

        Raises ConfigError, TopologyError or ModelError, each naming the field, the value and what would be right.
        """
        own = topology if isinstance(topology, Topology) else None
        if own is None and topology is not None:
            fields["topology"] = topology
        elif own is not None:
            fields["topology"] = own.name
        values = config.model_dump() if config is not None else {}
        self.config = make_config({**values, **fields}) if fields or config is None else config
        self.topology = _topology_of(self.config, own)
        self._check_replicas()
        self._check_transport()
        check_name(self.config.model)
        # Actors on a cluster that is joined have another working directory, and so may this process when they start.
        self._model = absolute_name(self.config.model)
        self._observer = observer or SilentObserver()
        self._runtime: Runtime | None = None
        self._info: RuntimeInfo | None = None

    def run(self, questions: Iterable[str | Mapping[str, Any] | Question]) -> Iterator[Answer]:
        """Answers in the order in which they are finished. A question is a text, a record with `question` (and `id`,
        `gold`, whatever else prompts use), or a `Question`.

        Writes no files. Raises TaskError or TopologyError before anything starts if a question is malformed or an id
        stands there twice, and RunError at the end if some questions had no answer.
        """
        asked = self._controlled(questions_from(questions))
        check_prompts(self.topology, asked)
        check_graders(asked)
        if self.config.model == EMBEDDED_MODEL:
            warn_of_untrained(asked)
        config = self.config.resolved(task_max_new_tokens(asked))
        failures: list[Failure] = []
        batches = plan_batches(asked, config.batch_size)
        with closing(self._drive(config, batches, self._traced(asked))) as results:
            for result in results:
                if isinstance(result, Answer):
                    yield result
                else:
                    failures.append(result)
        if failures:
            first = failures[0]
            raise RunError(
                f"{len(failures)} of {len(asked)} questions have no answer; question {first.id}: "
                f"agent {first.agent}: {first.error}"
            )

    def evaluate(self) -> Summary:
        """Answer all questions of the configured task; what finishes is in the output folder at once, if there is
        one. Failed questions are counted in the summary and kept in failures.jsonl.

        Raises InputError kinds for whatever of the user's input is wrong, before anything starts; RunError kinds if
        the run breaks off. What was finished by then stays in the folder, and `resume` goes on from it.
        """
        config, questions = self._task()
        if config.output is None:
            return self._answer_all(config, questions, None).summary
        with open_output(config.output) as output:
            refuse_seeds(output.folder)
            with Journal.open(output.folder, config, questions, pinned=self._pinned()) as journal:
                output.begin()
                return self._answer_all(config, questions, journal).summary

    def evaluate_seeds(
        self, seeds: str | Sequence[int], *, on_seed: Callable[[int], None] = lambda seed: None
    ) -> SeedsSummary:
        """Like `evaluate`, once with each of `seeds` in place of the configured one, on the same actors; `on_seed` is
        told which one begins. Each has its own folder in the output folder, `seed-N`, with what `evaluate` writes;
        `summary.json` beside them has the figures over all. `resume` goes on with the seed that was broken off.

        Raises ConfigError for seeds that are none or come twice, and what `evaluate` raises.
        """
        numbers = parse_seeds(seeds)
        config_of_all, questions = self._task()
        configs = {seed: config_of(config_of_all, seed) for seed in numbers}
        with SeedsJournal(config_of_all.output, configs, questions, self._pinned()) as journals:
            runs = {}
            for seed, config in configs.items():
                on_seed(seed)
                runs[seed] = self._answer_all(config, questions, journals.of(seed))
            summary = summarise_seeds(config_of_all, runs)
            journals.finish(summary)
            return summary

    def close(self) -> None:
        """End the actors and, if this object started it, Ray. Safe to call twice."""
        runtime, self._runtime, self._info = self._runtime, None, None
        if runtime is not None:
            runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _task(self) -> tuple[RunConfig, list[Question]]:
        """The questions of the configured task, checked, and the configuration with what the task decides."""
        questions = self._controlled(load_questions(self.config.task, self.config.limit))
        check_prompts(self.topology, questions)
        check_graders(questions)
        if self.config.model == EMBEDDED_MODEL:
            warn_of_untrained(questions)
        return self.config.resolved(task_max_new_tokens(questions)), questions

    def _pinned(self) -> dict[str, str]:
        """What a resumed run must share beside the configuration."""
        digest = hashlib.blake2b(dump_topology(self.topology).encode(), digest_size=16)
        return {"topology_digest": digest.hexdigest()}

    def _answer_all(self, config: RunConfig, questions: Sequence[Question], journal: Journal | None) -> SeedRun:
        answers = journal.answers if journal else []
        failures: list[Failure] = []
        batches = plan_batches(questions, config.batch_size, {answer.id for answer in answers})
        num_resumed = len(answers)
        if batches:
            self._start(len(batches))
        warm_up = WarmUp(batches, config.max_replicas)
        begin = time.perf_counter()
        with closing(self._drive(config, batches, self._traced(questions), num_done=num_resumed)) as results:
            for result in results:
                warm_up.settle(result, time.perf_counter() - begin)
                if journal:
                    journal.record(result)
                if isinstance(result, Failure):
                    failures.append(result)
                else:
                    answers.append(result)
        seconds = time.perf_counter() - begin
        summary = summarise(
            answers,
            failures,
            config=config,
            seconds=seconds,
            num_resumed=num_resumed,
            warm_up=warm_up,
            made_with=made_with(config.runtime, self._info.description if self._info else None),
        )
        if journal:
            summary = journal.finish(summary)
        return SeedRun(summary, answers)

    def _traced(self, questions: Sequence[Question]) -> list[str]:
        """The ids of the questions of which a trace is kept: the first ones, whatever has an answer already."""
        return [question.id for question in questions[: self.config.trace]]

    def _drive(
        self, config: RunConfig, batches: Sequence[Batch], traced: Sequence[str], num_done: int = 0
    ) -> Generator[Answer | Failure, None, None]:
        if not batches:
            return
        runtime, info = self._start(len(batches))
        settings = DriverSettings.from_config(config, traced)
        metrics = RayMetrics() if config.runtime == "ray" else None
        driver = Driver(runtime, self.topology, settings, self._observer, info=info, metrics=metrics)
        with closing(driver.run(batches, num_done=num_done)) as results:
            try:
                yield from results
            except (ActorError, ClusterError):
                self.close()  # its actors are of no use any more; another run starts its own
                raise

    def _start(self, num_batches: int) -> tuple[Runtime, RuntimeInfo]:
        if self._runtime is None or self._info is None:
            self._runtime = self._make_runtime(num_batches)
            try:
                self._info = self._runtime.start()
            except BaseException:
                self.close()
                raise
        return self._runtime, self._info

    def _check_replicas(self) -> None:
        """Raises ConfigError for an agent that there is not, and for numbers that the placement rules out."""
        counts = replicas_by_agent(self.config.replicas, [agent.name for agent in self.topology.agents])
        if self.config.placement == "colocate" and len(set(counts.values())) > 1:
            raise ConfigError("replicas", ",".join(f"{name}={count}" for name, count in counts.items()), ALIKE)

    def _controlled(self, questions: list[Question]) -> list[Question]:
        return derange(questions) if self.config.memory == "deranged" else questions

    def _check_transport(self) -> None:
        """Raises ConfigError for a transport that cannot be used wherever the actors will be."""
        config = self.config
        if config.runtime == "local" or config.placement == "colocate":
            pick_transport(config.transport, config.codec, Situation(same_process=True))
        elif config.transport == "loopback":
            raise ConfigError(
                "transport",
                "loopback",
                "loopback stays within one process; use auto, or placement colocate or runtime local",
            )

    def _make_runtime(self, num_batches: int) -> Runtime:
        config = self.config
        make_runner = partial(
            load_runner,
            self._model,
            dtype=config.dtype,
            device=config.device,
            realign=config.realign,
            # Asked here: an actor has the environment and the working directory of its cluster.
            cache_dir=read_environment().cache_dir.absolute(),
        )
        if config.runtime == "local":
            transport, _ = pick_transport(config.transport, config.codec, Situation(same_process=True))
            return LocalRuntime(make_runner, transport)
        names = [agent.name for agent in self.topology.agents]
        return RayRuntime(
            names,
            make_runner,
            partial(pick_transport, config.transport, config.codec),
            address=config.address,
            replicas=config.replicas,
            placement=config.placement,
            tp=config.tp,
            turn_seconds=config.turn_timeout,
            uses_gpus=config.device != "cpu",
            overlap=config.overlap,
            measures_costs=config.handover == "auto",
            busy_agents=min(len(names), num_batches * self.topology.width),
        )


def _topology_of(config: RunConfig, own: Topology | None) -> Topology:
    """What is run: the configured topology, or the task's own one of that name, as method and memory make it."""
    topology = own or load_topology(builtin_for(config.task, config.topology))
    topology = apply_method(topology, config.method, single=builtin_for(config.task, "single"))
    return apply_control(topology, config.memory)
