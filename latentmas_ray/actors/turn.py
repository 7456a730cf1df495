"""What an actor does with one turn: unpack, call the engine, pack, return. The same for every runtime."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from latentmas_ray.engine.turn import SegmentRead, TurnReport, TurnWork
from latentmas_ray.memory import KVCacheSpec, Segment
from latentmas_ray.transport import Transport


class Runner(Protocol):
    """Whoever carries out turns; `engine.runner.TurnRunner`, or a stand-in that waits on a timer."""

    @property
    def spec(self) -> KVCacheSpec:
        """What its memory looks like."""

    @property
    def device(self) -> str:
        """Where it computes, for the log."""

    def run(self, work: TurnWork, segments: dict[str, Segment]) -> tuple[Segment | None, TurnReport]:
        """One turn."""


def carry_out(runner: Runner, transport: Transport, work: TurnWork, payloads: Sequence[Any]) -> tuple[Any, TurnReport]:
    """One turn on `payloads`, which stand in the order of `work.segment_order()`.

    Returns the packed segment (None for a text agent) and the report with the transfers filled in. Raises what the
    engine and the wire format raise.
    """
    segments, reads = {}, []
    for source, payload in zip(work.segment_order(), payloads, strict=True):
        begin = time.perf_counter()
        segments[source] = transport.unpack(payload, expected=runner.spec)
        reads.append(
            SegmentRead(
                source=source,
                num_bytes=segments[source].num_bytes,
                transport=transport.name,
                seconds=time.perf_counter() - begin,
            )
        )
    segment, report = runner.run(work, segments)
    begin = time.perf_counter()
    packed = None if segment is None else transport.pack(segment)
    # A segment may still lie in the engine's cache: packing is then what copies it out.
    phases = replace(report.phases, emit=report.phases.emit + time.perf_counter() - begin)
    return packed, replace(report, reads=tuple(reads), phases=phases)
