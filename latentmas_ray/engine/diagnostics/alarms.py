"""What should not be in an agent's memory, found in the figures of its thoughts. Pure Python.

All limits are here, and they are rough: they were chosen so that runs in which nothing is wrong stay silent on the
models that were looked at (docs/diagnostics.md names them). Pass other `AlarmThresholds` to look more closely.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.engine.diagnostics.trace import Alarm, AlarmKind

ACTED_ON: frozenset[AlarmKind] = frozenset({"not-finite", "norm", "distance"})
"""What a guard acts on. Repetition and entropy jumps are common in thoughts that do no harm, so they are only told."""


@dataclass(frozen=True, kw_only=True)
class AlarmThresholds:
    """From where on a figure is an alarm."""

    norm: tuple[float, float] = (0.01, 2000.0)  # of h W_a, in mean norms of the input embeddings
    distance: float = 1.0  # cosine distance to the nearest embedding: it points away from all of them
    entropy_jump: float = 0.8  # between two thoughts, as a share of the most that an entropy can be
    likeness: float = 0.999  # cosine between two thoughts in a row that are taken to be the same …
    num_alike: int = 8  # … and how many such pairs in a row are an alarm
    effect: float = 1e-3  # nats


LIMITS = AlarmThresholds()


@dataclass(frozen=True, kw_only=True)
class ThoughtStats:
    """Of one thought, what alarms are found in."""

    is_finite: bool = True
    norm: float = 1.0
    distance: float = 0.0
    likeness: float | None = None  # its cosine with the thought before; None for the first
    entropy: float | None = None  # in nats; None where nobody asked what it would say


def find_alarms(
    stats: Sequence[ThoughtStats], *, max_entropy: float = math.inf, limits: AlarmThresholds = LIMITS
) -> tuple[Alarm, ...]:
    """The alarms of one agent's thoughts on one question, in the order of the thoughts. `max_entropy` is the logarithm
    of the vocabulary's size. Of a thought that is not finite nothing else is told."""
    found = list(_not_finite(stats))
    before: ThoughtStats | None = None
    for step, stat in enumerate(stats):
        if stat.is_finite:
            found += _of_one(step, stat, limits)
            found += _entropy_jump(step, before, stat, limits.entropy_jump * max_entropy)
        before = stat if stat.is_finite else None
    found += _repetitions(stats, limits)
    return tuple(sorted(found, key=lambda alarm: alarm.step or 0))


def find_idle_memory(effects: Mapping[str, float], limits: AlarmThresholds = LIMITS) -> tuple[Alarm, ...]:
    """An alarm for every agent whose segment changes nothing for the one that reads it."""
    return tuple(
        Alarm(kind="no-effect", source=source, value=effect, limit=limits.effect)
        for source, effect in effects.items()
        if effect < limits.effect
    )


def first_of_each_kind(alarms: Sequence[Alarm]) -> tuple[Alarm, ...]:
    """What is told where there is no room for all, in the order in which they come."""
    first: dict[AlarmKind, Alarm] = {}
    for alarm in alarms:
        first.setdefault(alarm.kind, alarm)
    return tuple(first.values())


def _not_finite(stats: Sequence[ThoughtStats]) -> Iterator[Alarm]:
    """One alarm for all of them: what follows a thought that is not finite is not finite either."""
    steps = [step for step, stat in enumerate(stats) if not stat.is_finite]
    if steps:
        yield Alarm(kind="not-finite", step=steps[0], value=float(len(steps)))


def _of_one(step: int, stat: ThoughtStats, limits: AlarmThresholds) -> Iterator[Alarm]:
    least, most = limits.norm
    if stat.norm < least:
        yield Alarm(kind="norm", step=step, value=stat.norm, limit=least)
    if stat.norm > most:
        yield Alarm(kind="norm", step=step, value=stat.norm, limit=most)
    if stat.distance > limits.distance:
        yield Alarm(kind="distance", step=step, value=stat.distance, limit=limits.distance)


def _entropy_jump(step: int, before: ThoughtStats | None, stat: ThoughtStats, limit: float) -> Iterator[Alarm]:
    if before is None or before.entropy is None or stat.entropy is None:
        return
    jump = abs(stat.entropy - before.entropy)
    if jump > limit:
        yield Alarm(kind="entropy", step=step, value=jump, limit=limit)


def _repetitions(stats: Sequence[ThoughtStats], limits: AlarmThresholds) -> Iterator[Alarm]:
    """One alarm for each run of thoughts that are alike, where it has become long enough."""
    run: list[float] = []
    for step, stat in enumerate(stats):
        is_alike = stat.is_finite and stat.likeness is not None and stat.likeness >= limits.likeness
        if not is_alike:
            run = []
            continue
        assert stat.likeness is not None
        run.append(stat.likeness)
        if len(run) == limits.num_alike:
            yield Alarm(kind="repetition", step=step, value=min(run), limit=limits.likeness)
