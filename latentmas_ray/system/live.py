"""The started runtime of a `LatentMAS`, shared by all threads that ask it something."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass

from latentmas_ray.driver import Result, RunRequest, Runtime, RuntimeInfo, Scheduler, SharedScheduler
from latentmas_ray.driver.metrics import MetricSink
from latentmas_ray.errors import ActorError, ClusterError, ConfigError, RunError
from latentmas_ray.topology import Topology

Check = Callable[[RuntimeInfo], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Started:
    runtime: Runtime
    info: RuntimeInfo
    agents: frozenset[str]
    scheduler: SharedScheduler


class LiveRuntime:
    """Starts a runtime when it is first needed, and another one where its actors are lost. Thread-safe."""

    def __init__(
        self,
        make_runtime: Callable[[Topology, int], Runtime],
        make_metrics: Callable[[], MetricSink | None],
        memory_limit_bytes: int | None,
    ) -> None:
        """`make_runtime` gets the topology that is run first and how many batches it is run over; metrics are made once
        the runtime is there."""
        self._make_runtime, self._make_metrics = make_runtime, make_metrics
        self._memory_limit_bytes = memory_limit_bytes
        self._starting = threading.Lock()
        self._started: _Started | None = None

    def start(self, topology: Topology, num_batches: int) -> RuntimeInfo:
        """Load the models, unless that is done. Raises what `Runtime.start` raises, and ConfigError for a topology with
        other agents than those that have actors while these are at work."""
        return self._start(topology, num_batches).info

    def run(self, request: RunRequest, check: Check | None = None) -> Generator[Result, None, None]:
        """The results of a request, see `SharedScheduler.run`. Starts what is not started; then `check` may refuse."""
        started = self._start(request.topology, len(request.batches))
        if check is not None:
            check(started.info)
        with closing(started.scheduler.run(request)) as results:
            try:
                yield from results
            except (ActorError, ClusterError) as error:
                self._discard(started, error)
                raise

    async def arun(self, request: RunRequest, check: Check | None = None) -> AsyncGenerator[Result, None]:
        """Like `run`, for a caller in an event loop."""
        started = await asyncio.to_thread(self._start, request.topology, len(request.batches))
        if check is not None:
            check(started.info)
        async with aclosing(started.scheduler.arun(request)) as results:
            try:
                async for result in results:
                    yield result
            except (ActorError, ClusterError) as error:
                await asyncio.to_thread(self._discard, started, error)
                raise

    def close(self) -> None:
        """End the runtime; calls that are still at work raise RunError. Safe to call twice."""
        with self._starting:
            started, self._started = self._started, None
        if started is not None:
            _end(started, RunError("it was closed while questions were being answered"))

    def _start(self, topology: Topology, num_batches: int) -> _Started:
        names = frozenset(agent.name for agent in topology.agents)
        with self._starting:
            if self._started is not None and not names <= self._started.agents:
                if self._started.scheduler.is_busy:
                    there = ", ".join(sorted(self._started.agents))
                    raise ConfigError(
                        "topology", topology.name, f"its agents must be among those that are at work now: {there}"
                    )
                _end(self._started, RunError("other agents were started"))
                self._started = None
            if self._started is None:
                self._started = self._start_anew(topology, num_batches, names)
            return self._started

    def _start_anew(self, topology: Topology, num_batches: int, names: frozenset[str]) -> _Started:
        runtime = self._make_runtime(topology, num_batches)
        try:
            info = runtime.start()
            scheduler = Scheduler(
                runtime, info=info, memory_limit_bytes=self._memory_limit_bytes, metrics=self._make_metrics()
            )
        except BaseException:
            runtime.close()
            raise
        return _Started(runtime=runtime, info=info, agents=names, scheduler=SharedScheduler(scheduler))

    def _discard(self, started: _Started, error: BaseException) -> None:
        """Its actors are of no use any more; the next call starts others."""
        with self._starting:
            if self._started is started:
                self._started = None
        _end(started, error)


def _end(started: _Started, error: BaseException) -> None:
    started.scheduler.close(error)
    started.runtime.close()
