"""What an actor does with one turn: unpack, call the engine, pack, return. The same for every runtime."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from latentmas_ray.actors.inbox import Delivery, Inbox, Parcel
from latentmas_ray.engine.incoming import Incoming
from latentmas_ray.engine.turn import TurnReport, TurnWork
from latentmas_ray.memory import KVCacheSpec, Piece
from latentmas_ray.transport import Transport


class Runner(Protocol):
    """Whoever carries out turns; `engine.runner.TurnRunner`, or a stand-in that waits on a timer."""

    @property
    def spec(self) -> KVCacheSpec:
        """What its memory looks like."""

    @property
    def device(self) -> str:
        """Where it computes, for the log."""

    def run(
        self, work: TurnWork, memory: Incoming, *, publish: Callable[[float, Piece], None] | None = None
    ) -> tuple[Piece | None, TurnReport]:
        """One turn."""

    def measure_prefill(self, num_tokens: int) -> float:
        """Tokens per second of a prefill of so many."""


def carry_out(
    runner: Runner,
    transport: Transport,
    work: TurnWork,
    deliveries: Sequence[Delivery],
    publish: Callable[[Parcel], None] | None = None,
) -> tuple[Parcel | None, TurnReport]:
    """One turn on `deliveries`, which stand in the order of `work.segment_order()`.

    With `publish` the segment leaves in parcels, each as soon as it is final; without, it is returned as one. Returns
    the packed segment (None for a text agent, and if it was published) and the report with the transfers filled in.
    Raises what the engine, the transport and the wire format raise.
    """
    inbox = Inbox(transport, deliveries, runner.spec)

    def send(final_at: float, piece: Piece) -> None:
        assert publish is not None
        publish(Parcel(final_at, transport.pack(piece)))

    piece, report = runner.run(work, inbox, publish=None if publish is None else send)
    begin, final_at = time.perf_counter(), time.time()
    parcel = None if piece is None else Parcel(final_at, transport.pack(piece))
    phases = replace(
        report.phases,
        wait=inbox.waited_seconds,
        absorb=max(0.0, report.phases.absorb - inbox.waited_seconds),
        # A segment may still lie in the engine's cache: packing is then what copies it out.
        emit=report.phases.emit + time.perf_counter() - begin,
    )
    return parcel, replace(report, reads=inbox.account(transport.name, work.recipes), phases=phases)
