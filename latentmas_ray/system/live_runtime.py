"""The started runtime of a `LatentMAS`, shared by all its threads and event loops."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.errors import ActorError, ClusterError, ConfigError, RunError
from latentmas_ray.scheduler.loop import Scheduler
from latentmas_ray.scheduler.metrics import MetricSink
from latentmas_ray.scheduler.protocol import Runtime, RuntimeInfo, StandIns, TakesStandIns
from latentmas_ray.scheduler.run import Result, RunRequest
from latentmas_ray.scheduler.shared import SharedScheduler
from latentmas_ray.topology import Topology

P = ParamSpec("P")
T = TypeVar("T")
Check = Callable[[RuntimeInfo], None]
MakeRuntime = Callable[[Topology, int], Runtime]


@dataclass(kw_only=True, eq=False)
class _Started:
    runtime: Runtime
    info: RuntimeInfo
    agents: frozenset[str]
    scheduler: SharedScheduler
    num_calls: int = 0  # active on it

    def close(self, error: BaseException) -> None:
        """Shut down the runtime; active calls raise `error`."""
        self.scheduler.close(error)
        self.runtime.close()


class LiveRuntime:
    """Starts a runtime when it is first needed, and a new one after its actors are lost. Thread-safe."""

    def __init__(
        self,
        make_runtime: MakeRuntime,
        make_metrics: Callable[[], MetricSink | None],
        memory_limit_bytes: int | None,
        *,
        agents: Collection[str] = (),
    ) -> None:
        """`make_runtime` gets the first topology and its number of batches; `make_metrics` is called after the
        start. `agents` are those that each of its runtimes executes, besides the agents of the first topology."""
        self._make_runtime, self._make_metrics = make_runtime, make_metrics
        self._memory_limit_bytes = memory_limit_bytes
        self._agents = frozenset(agents)
        self._starting = threading.Lock()  # held while a runtime starts or shuts down
        self._starter: int | None = None  # the thread that holds it
        self._state = threading.RLock()  # held briefly, also by the garbage collector
        self._started: _Started | None = None
        self._for_event_loops: ThreadPoolExecutor | None = None

    def start(self, topology: Topology, num_batches: int, make_runtime: MakeRuntime | None = None) -> RuntimeInfo:
        """Start the runtime unless it has started; `make_runtime` makes it, if that is not the usual one. Raises the
        errors of `Runtime.start`, and ConfigError if active calls use a runtime without all agents of `topology`."""
        started = self._start(topology, num_batches, make_runtime)
        self._release(started)
        return started.info

    def add_agents(self, agents: Collection[str], stand_ins: StandIns) -> None:
        """Let the actors execute the turns of further agents, too, without waiting for turns that run; see
        `TakesStandIns`. Runtimes that are started later have to be made for them."""
        with self._exclusive():
            self._agents |= frozenset(agents)
            if (started := self._started) is not None:
                if isinstance(started.runtime, TakesStandIns):
                    started.info = started.scheduler.change_info(partial(started.runtime.set_stand_ins, stand_ins))
                with self._state:
                    started.agents |= self._agents

    def run(self, request: RunRequest, check: Check | None = None) -> Generator[Result, None, None]:
        """Yield the results of a request, see `SharedScheduler.run`. Starts the runtime if needed, then calls `check`,
        which may raise."""
        started = self._start(request.topology, len(request.batches))
        try:
            if check is not None:
                check(started.info)
            with closing(started.scheduler.run(_with_layout(request, started.info))) as results:
                yield from results
        except (ActorError, ClusterError) as error:
            self._discard(started, error)
            raise
        finally:
            self._release(started)

    async def arun(self, request: RunRequest, check: Check | None = None) -> AsyncGenerator[Result, None]:
        """Like `run`, for a caller in an event loop."""
        started = await self._start_async(request.topology, len(request.batches))
        try:
            if check is not None:
                check(started.info)
            async with aclosing(started.scheduler.arun(_with_layout(request, started.info))) as results:
                async for result in results:
                    yield result
        except (ActorError, ClusterError) as error:
            await asyncio.wrap_future(self._submit(self._discard, started, error))
            raise
        finally:
            self._release(started)

    def writes_at_once(self) -> Mapping[str, int]:
        """Return `RuntimeInfo.writes_at_once` of the replicas that there are now. Never waits for a start or a step."""
        with self._state:
            started = self._started
        return {} if started is None else started.scheduler.info.writes_at_once

    def running_turns(self) -> list[TurnProgress]:
        """Return how far the turns are that run now. Never waits for a start or a step."""
        with self._state:
            started = self._started
        return [] if started is None else started.runtime.running_turns()

    def close(self) -> None:
        """Shut down the runtime; active calls raise RunError. Waits for models that are being loaded, and for turns in
        this process. Safe to call twice. Raises RunError, and changes nothing, if this thread is within such work, as
        in a signal handler."""
        with self._exclusive():
            if self._started is not None:
                self._started.scheduler.raise_if_within_step()
                self._close_started(RunError("it was closed while questions were being answered"))
            with self._state:
                executor, self._for_event_loops = self._for_event_loops, None
        if executor is not None:
            executor.shutdown(wait=False)

    def _start(self, topology: Topology, num_batches: int, make_runtime: MakeRuntime | None = None) -> _Started:
        """Return the runtime for this topology; the caller must call `_release` afterwards."""
        with self._exclusive():
            if (started := self._join(topology)) is not None:
                return started
            self._close_started(RunError("other agents were started"))
            started = self._start_new(topology, num_batches, make_runtime or self._make_runtime)
            with self._state:
                started.num_calls += 1
                self._started = started
            return started

    def _join(self, topology: Topology) -> _Started | None:
        """Return the started runtime if it has all agents of this topology. Raises ConfigError if it has not and other
        calls are active on it."""
        names = {agent.name for agent in topology.agents}
        with self._state:
            if (started := self._started) is None:
                return None
            if names <= started.agents:
                started.num_calls += 1
                return started
            if started.num_calls:
                names_now = ", ".join(sorted(started.agents))
                raise ConfigError(
                    "topology", topology.name, f"its agents must be among those of the active calls: {names_now}"
                )
            return None

    async def _start_async(self, topology: Topology, num_batches: int) -> _Started:
        if (started := self._join(topology)) is not None:
            return started
        starting = self._submit(self._start, topology, num_batches)
        try:
            return await asyncio.wrap_future(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._release_when_done)
            raise

    def _release(self, started: _Started) -> None:
        with self._state:
            started.num_calls -= 1

    def _release_when_done(self, starting: Future[_Started]) -> None:
        if not starting.cancelled() and starting.exception() is None:
            self._release(starting.result())

    def _start_new(self, topology: Topology, num_batches: int, make_runtime: MakeRuntime) -> _Started:
        runtime = make_runtime(topology, num_batches)
        try:
            info = runtime.start()
            scheduler = Scheduler(
                runtime, info=info, memory_limit_bytes=self._memory_limit_bytes, metrics=self._make_metrics()
            )
        except BaseException:
            runtime.close()
            raise
        names = self._agents | {agent.name for agent in topology.agents}
        return _Started(runtime=runtime, info=info, agents=names, scheduler=SharedScheduler(scheduler))

    def _discard(self, started: _Started, error: BaseException) -> None:
        """Shut down a runtime whose actors are lost; the next call starts a new one. Waits until it is shut down."""
        with self._exclusive():
            if self._started is started:
                self._close_started(error)

    def _close_started(self, error: BaseException) -> None:
        with self._state:
            started, self._started = self._started, None
        if started is not None:
            started.close(error)

    def _submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function in a thread for an event loop. The loop's own threads may all wait for answers."""
        with self._state:
            if self._for_event_loops is None:
                self._for_event_loops = ThreadPoolExecutor(1, thread_name_prefix="starting")
            return self._for_event_loops.submit(function, *args, **kwargs)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Allow one thread at a time. Raises RunError if this thread is inside already, instead of a deadlock."""
        if self._starter == threading.get_ident():
            raise RunError("it was called while this thread starts or closes the runtime; call it from another thread")
        with self._starting:
            self._starter = threading.get_ident()
            try:
                yield
            finally:
                self._starter = None


def _with_layout(request: RunRequest, info: RuntimeInfo) -> RunRequest:
    """Return the request with the replicas that a search has chosen, if there was one."""
    if info.layout is None:
        return request
    most = max(info.layout.replicas.values())
    settings = replace(request.settings, replicas=most, is_colocated=info.layout.is_colocated)
    return replace(request, settings=settings)
