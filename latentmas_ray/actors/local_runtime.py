"""All agents in this process, one after another on one model, without Ray: the numerical reference, the debugger,
and the fast test path. The driver cannot tell it from actors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from latentmas_ray.actors.execute_turn import Runner, execute_turn
from latentmas_ray.actors.free_memory import free_memory_bytes
from latentmas_ray.actors.receiver import SentChunk, by_source
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.errors import InputError, TurnError
from latentmas_ray.memory.spec import WHOLE
from latentmas_ray.scheduler.protocol import RuntimeInfo, TurnHandle
from latentmas_ray.transport import Transport

_MEMORY_SHARE = 0.25  # of the free memory may be held by segments in flight


class LocalRuntime:
    """Carries out a turn at once, inside `submit`."""

    def __init__(self, make_runner: Callable[[], Runner], transport: Transport) -> None:
        self._make_runner = make_runner
        self._transport = transport
        self._runner: Runner | None = None

    def start(self) -> RuntimeInfo:
        """Load the model. Raises ModelError."""
        self._runner = self._make_runner()
        self._transport.open()
        return RuntimeInfo(
            bytes_per_token=self._runner.spec.bytes_per_token,
            memory_limit_bytes=int(free_memory_bytes() * _MEMORY_SHARE),
            description=f"all agents in this process on {self._runner.device}",
            kv_spec=self._runner.spec.of_shard(WHOLE),
        )

    def submit(self, work: TurnRequest, segments: Mapping[str, Any]) -> TurnHandle:
        """Carry out the turn; an error is kept for `report`."""
        assert self._runner is not None, "start() comes first"
        chunks = [segments[name] for name in work.segment_order()]
        if any(isinstance(chunk, Exception) for chunk in chunks):
            reason = next(chunk for chunk in chunks if isinstance(chunk, Exception))
            return TurnHandle(work.agent, reason, reason)
        try:
            deliveries = by_source(dict(zip(work.segment_order(), chunks, strict=True)))
            chunk, report = execute_turn(self._runner, self._transport, work, deliveries)
        except Exception as error:  # noqa: BLE001  as in an actor: whatever it is, it is this batch's error
            return TurnHandle(work.agent, error, error)
        return TurnHandle(work.agent, chunk, report)

    def wait(self, tickets: Sequence[TurnHandle], timeout_seconds: float) -> list[TurnHandle]:
        """All of them: they finished in `submit`."""
        return list(tickets)

    def report(self, ticket: TurnHandle) -> TurnResult:
        """The report of a turn. Raises TurnError from the error of the turn; a user's mistake is raised as it is."""
        if isinstance(ticket.report, InputError):
            raise ticket.report
        if isinstance(ticket.report, Exception):
            raise TurnError(str(ticket.report) or type(ticket.report).__name__) from ticket.report
        report: TurnResult = ticket.report
        return report

    def is_lost(self, ticket: TurnHandle) -> bool:
        """Never: what is in this process is there as long as it is."""
        return False

    def cancel(self, tickets: Sequence[TurnHandle]) -> None:
        """Nothing to do: no turn is ever queued."""

    def release(self, tickets: Sequence[TurnHandle]) -> None:
        """Have the transport let go of the segments of these turns."""
        for ticket in tickets:
            if isinstance(ticket.segment, SentChunk):
                self._transport.release(ticket.segment.payload)

    def close(self) -> None:
        """Let go of the model."""
        self._runner = None
        self._transport.close()
