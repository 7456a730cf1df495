"""Writes one turn of a text agent: unpacks what it reads, in the caller's thread, and waits until it is written."""

from collections.abc import Sequence
from dataclasses import replace

from latentmas_ray.actors.receiver import IncomingSegment, make_receiver
from latentmas_ray.engine.timing.phase_spans import cut_waits
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.transport import Transport
from latentmas_ray.writing.writer import Writer
from latentmas_ray.writing.written_turn import ReceivedTurn


def write_turn(
    writer: Writer, transport: Transport, number: int, work: TurnRequest, incoming: Sequence[IncomingSegment]
) -> TurnResult:
    """Write the turn `number` on the `incoming` segments. Raises what `receive_turn` and the writer raise."""
    return writer.start(number, receive_turn(writer, transport, work, incoming)).result()


def receive_turn(
    writer: Writer, transport: Transport, work: TurnRequest, incoming: Sequence[IncomingSegment]
) -> ReceivedTurn:
    """Receive what a turn reads; the `incoming` segments are in the order of `work.segment_order()`.

    What an engine copies of the memory is part of its steps; the transfers of the turn are what came before. Of those
    the part in which the engine wrote for others is not exposed. Raises what the writer, the transport and the wire
    format raise.
    """
    receiver = make_receiver(
        work,
        transport,
        incoming,
        writer.engine.spec,
        idle_since=work.submitted_at,
        busy_within=writer.busy.within,
    )
    received = writer.receive(work, receiver)
    return replace(
        received,
        wait_seconds=receiver.waited_seconds,
        absorb_seconds=max(0.0, received.absorb_seconds - receiver.waited_seconds),
        spans=cut_waits(received.spans, receiver.waits),
        reads=receiver.transfers(work.recomputed),
    )
