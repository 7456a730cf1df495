"""The started runtime of a `LatentMAS`, shared by all threads that ask it something."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from latentmas_ray.errors import ActorError, ClusterError, ConfigError, RunError
from latentmas_ray.scheduler.loop import Scheduler
from latentmas_ray.scheduler.metrics import MetricSink
from latentmas_ray.scheduler.protocol import Runtime, RuntimeInfo
from latentmas_ray.scheduler.run import Result, RunRequest
from latentmas_ray.scheduler.shared import SharedScheduler
from latentmas_ray.topology import Topology

P = ParamSpec("P")
T = TypeVar("T")
Check = Callable[[RuntimeInfo], None]


@dataclass(kw_only=True, eq=False)
class _Started:
    runtime: Runtime
    info: RuntimeInfo
    agents: frozenset[str]
    scheduler: SharedScheduler
    num_calls: int = 0  # that are at work on it

    def end(self, error: BaseException) -> None:
        """Its calls raise `error`."""
        self.scheduler.close(error)
        self.runtime.close()


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
        self._starting = threading.Lock()  # held for as long as it takes to start and to end a runtime
        self._starter: int | None = None  # the thread that holds it
        self._state = threading.RLock()  # held for moments, by garbage collectors too
        self._started: _Started | None = None
        self._for_event_loops: ThreadPoolExecutor | None = None

    def start(self, topology: Topology, num_batches: int) -> RuntimeInfo:
        """Load the models, unless that is done. Raises what `Runtime.start` raises, and ConfigError for a topology with
        other agents than those that have actors while these are at work."""
        started = self._start(topology, num_batches)
        self._leave(started)
        return started.info

    def run(self, request: RunRequest, check: Check | None = None) -> Generator[Result, None, None]:
        """The results of a request, see `SharedScheduler.run`. Starts what is not started; then `check` may refuse."""
        started = self._start(request.topology, len(request.batches))
        try:
            if check is not None:
                check(started.info)
            with closing(started.scheduler.run(request)) as results:
                yield from results
        except (ActorError, ClusterError) as error:
            self._discard(started, error)
            raise
        finally:
            self._leave(started)

    async def arun(self, request: RunRequest, check: Check | None = None) -> AsyncGenerator[Result, None]:
        """Like `run`, for a caller in an event loop."""
        started = await self._start_async(request.topology, len(request.batches))
        try:
            if check is not None:
                check(started.info)
            async with aclosing(started.scheduler.arun(request)) as results:
                async for result in results:
                    yield result
        except (ActorError, ClusterError) as error:
            await asyncio.wrap_future(self._submit(self._discard, started, error))
            raise
        finally:
            self._leave(started)

    def close(self) -> None:
        """End the runtime; calls that are still at work raise RunError. Waits for models that are being loaded, and for
        turns of this process. Safe to call twice. Raises RunError, and ends nothing, where this thread itself is in
        the middle of such work, as in a signal handler."""
        with self._alone():
            if self._started is not None:
                self._started.scheduler.raise_if_within_step()
                self._end_started(RunError("it was closed while questions were being answered"))
            with self._state:
                executor, self._for_event_loops = self._for_event_loops, None
        if executor is not None:
            executor.shutdown(wait=False)

    def _start(self, topology: Topology, num_batches: int) -> _Started:
        """What runs this topology; the caller has to `_leave` it."""
        with self._alone():
            if (there := self._join(topology)) is not None:
                return there
            self._end_started(RunError("other agents were started"))
            started = self._start_anew(topology, num_batches)
            with self._state:
                started.num_calls += 1
                self._started = started
            return started

    def _join(self, topology: Topology) -> _Started | None:
        """What is started, if it has the agents of this topology. Raises ConfigError if others are at work on it."""
        names = {agent.name for agent in topology.agents}
        with self._state:
            if (started := self._started) is None:
                return None
            if names <= started.agents:
                started.num_calls += 1
                return started
            if started.num_calls:
                there = ", ".join(sorted(started.agents))
                raise ConfigError(
                    "topology", topology.name, f"its agents must be among those that are at work now: {there}"
                )
            return None

    async def _start_async(self, topology: Topology, num_batches: int) -> _Started:
        if (there := self._join(topology)) is not None:
            return there
        starting = self._submit(self._start, topology, num_batches)
        try:
            return await asyncio.wrap_future(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._leave_when_done)
            raise

    def _leave(self, started: _Started) -> None:
        with self._state:
            started.num_calls -= 1

    def _leave_when_done(self, starting: Future[_Started]) -> None:
        if not starting.cancelled() and starting.exception() is None:
            self._leave(starting.result())

    def _start_anew(self, topology: Topology, num_batches: int) -> _Started:
        runtime = self._make_runtime(topology, num_batches)
        try:
            info = runtime.start()
            scheduler = Scheduler(
                runtime, info=info, memory_limit_bytes=self._memory_limit_bytes, metrics=self._make_metrics()
            )
        except BaseException:
            runtime.close()
            raise
        names = frozenset(agent.name for agent in topology.agents)
        return _Started(runtime=runtime, info=info, agents=names, scheduler=SharedScheduler(scheduler))

    def _discard(self, started: _Started, error: BaseException) -> None:
        """Its actors are of no use any more; the next call starts others. Waits until they are gone."""
        with self._alone():
            if self._started is started:
                self._end_started(error)

    def _end_started(self, error: BaseException) -> None:
        with self._state:
            started, self._started = self._started, None
        if started is not None:
            started.end(error)

    def _submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call it in a thread, for an event loop; not in one of the loop's, which may all wait for an answer."""
        with self._state:
            if self._for_event_loops is None:
                self._for_event_loops = ThreadPoolExecutor(1, thread_name_prefix="starting")
            return self._for_event_loops.submit(function, *args, **kwargs)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread at a time. Raises RunError instead of waiting for itself."""
        if self._starter == threading.get_ident():
            raise RunError("it was called while this thread loads or ends the models; call it from another thread")
        with self._starting:
            self._starter = threading.get_ident()
            try:
                yield
            finally:
                self._starter = None
