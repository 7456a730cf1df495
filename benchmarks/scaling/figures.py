"""Computes the figures of the runtime's benchmark from clock readings. Plain data: no torch, no Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from benchmarks.scaling.timed_runtime import CALLS, TurnTimes
from latentmas_ray.bench.timings import p99

# The way of a text from one agent to the next, in order. Only there the driver stands between the two: it needs the
# text for the prompt. A reader of memory is at its actor long before, and waits for the segment there.
TEXT_WAY = ("back", "decide", "there")
REST = "rest"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median and the tail of a distribution, in seconds; p99 by nearest rank."""

    count: int
    p50: float
    p99: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread | None":
        """Return the spread of `values`; None if there are none."""
        return Spread(count=len(values), p50=median(values), p99=p99(values)) if values else None


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """The figures for one number of replicas."""

    replicas: int  # of every agent
    actors: int
    questions: int  # of each repeat
    seconds: float  # median over the repeats, from the first admission to the last answer
    questions_per_second: float
    speed_up: float  # over one replica
    share_of_linear: float  # speed-up / replicas
    share_of_timer: float  # of what the timers alone would let through


@dataclass(frozen=True, kw_only=True)
class DriverTime:
    """Processor time of the driver per turn, in seconds. It does not grow when other processes use the same core."""

    spread: Spread | None  # of the driver's thread, from one result to the next
    mean: float  # of the driver's thread
    parts: Mapping[str, float]  # of the mean: in calls of the runtime, and the driver's own
    process: float  # mean of all threads of the process, Ray's among them
    cores: float  # that the whole process kept busy


@dataclass(frozen=True, kw_only=True)
class HandOvers:
    """The cost of hand-overs under one load; latencies are None if turns only queued."""

    load: str
    actors: int
    replicas: int  # of each agent of the chain
    turns: int
    seconds: float  # of the whole load
    turns_per_second: float
    memory: Spread | None  # from the end of a latent turn to all of its memory being at the reader
    text: Spread | None  # from the end of a text agent's turn to the beginning of its reader's
    text_way: Mapping[str, Spread]  # its parts; empty without `text`
    busy_readers: float  # share of hand-overs whose reader still had another turn; they are in no spread
    driver: DriverTime


def throughput_figures(
    seconds: Mapping[int, Sequence[float]], *, agents: int, batches: int, turn_seconds: float
) -> tuple[Throughput, ...]:
    """`seconds` has those of every repeat by the number of replicas, 1 among them; `batches` is of each replica, and a
    batch is one question."""
    middle = {replicas: median(repeats) for replicas, repeats in seconds.items()}
    rates = {replicas: replicas * batches / middle[replicas] for replicas in sorted(middle)}
    return tuple(
        Throughput(
            replicas=replicas,
            actors=replicas * agents,
            questions=replicas * batches,
            seconds=middle[replicas],
            questions_per_second=rate,
            speed_up=rate / rates[1],
            share_of_linear=rate / rates[1] / replicas,
            # A chain is full only when its first batch has reached its last agent.
            share_of_timer=(batches + agents - 1) * turn_seconds / middle[replicas],
        )
        for replicas, rate in rates.items()
    )


def driver_time(
    gaps: Sequence[float],
    call_seconds: Mapping[str, float],
    *,
    num_turns: int,
    thread: float,
    process: float,
    seconds: float,
) -> DriverTime:
    """`gaps` has the thread's processor time from each result to the next one; `thread` and `process` are the sums of
    processor time over `seconds` of wall clock."""
    parts = {call: call_seconds.get(call, 0.0) / num_turns for call in CALLS}
    return DriverTime(
        spread=Spread.of(gaps),
        mean=thread / num_turns,
        parts=parts | {REST: max(0.0, thread / num_turns - sum(parts.values()))},
        process=process / num_turns,
        cores=process / seconds,
    )


@dataclass(frozen=True)
class Latencies:
    """Of all hand-overs whose reader was idle."""

    memory: tuple[float, ...]
    text: tuple[Mapping[str, float], ...]  # by the parts of the way
    num_busy: int

    @staticmethod
    def of(turns: Mapping[tuple[int, str], TurnTimes], agents: Sequence[str], latent: Sequence[str]) -> "Latencies":
        """From the turns of all batches through a chain of `agents`, of which `latent` hand over memory."""
        memory, text, num_busy = [], [], 0
        for batch in {batch for batch, _ in turns}:
            for source, reader in pairwise(agents):
                one, other = turns[batch, source], turns[batch, reader]
                assert one.actor is not None, "it has reported"
                assert other.actor is not None, "it has reported"
                if other.actor.idle_since > one.actor.ended:
                    num_busy += 1
                elif source in latent:
                    memory.append(other.actor.present - one.actor.ended)
                else:
                    times = (one.actor.ended, one.seen, other.submitted, other.actor.begun)
                    text.append(dict(zip(TEXT_WAY, (end - begin for begin, end in pairwise(times)), strict=True)))
        return Latencies(tuple(memory), tuple(text), num_busy)

    @property
    def busy_share(self) -> float:
        return fmean([*[1.0] * self.num_busy, *[0.0] * (len(self.memory) + len(self.text))])

    def text_way(self) -> dict[str, Spread]:
        """Each part by itself: their middles need not add up to the whole's."""
        spreads = {part: Spread.of([way[part] for way in self.text]) for part in TEXT_WAY}
        return {part: spread for part, spread in spreads.items() if spread is not None}
