"""Alarms: anomalies in an agent's memory, found in the statistics of its thoughts. Pure Python.

The thresholds are rough: they were chosen so that normal runs raise no alarms on the models that were tested (see
docs/diagnostics.md). Pass other `AlarmThresholds` for stricter checks.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.engine.diagnostics.trace import Alarm, AlarmKind

ACTED_ON: frozenset[AlarmKind] = frozenset({"not-finite", "norm", "distance"})
"""The alarms that a guard acts on. Repetition and entropy jumps are common in harmless thoughts, so they are only
reported."""


@dataclass(frozen=True, kw_only=True)
class AlarmThresholds:
    """Thresholds beyond which a value is an alarm."""

    norm: tuple[float, float] = (0.01, 2000.0)  # of h W_a, in mean norms of the input embeddings
    distance: float = 1.0  # cosine distance to the nearest embedding; above 1 it points away from all
    entropy_jump: float = 0.8  # between two thoughts, as a share of the maximum entropy
    likeness: float = 0.999  # cosine between consecutive thoughts from which they count as the same …
    num_alike: int = 3  # … and how many such pairs in a row are an alarm
    effect: float = 1e-3  # nats
    num_idle: int = 5  # traced questions without any effect of an agent's memory from which that is no accident


LIMITS = AlarmThresholds()


@dataclass(frozen=True, kw_only=True)
class ThoughtStats:
    """The statistics of one thought in which alarms are found."""

    is_finite: bool = True
    norm: float = 1.0
    distance: float = 0.0
    likeness: float | None = None  # its cosine with the previous thought; None for the first
    entropy: float | None = None  # in nats; None if it was not projected to the vocabulary


def find_alarms(
    stats: Sequence[ThoughtStats], *, max_entropy: float = math.inf, limits: AlarmThresholds = LIMITS
) -> tuple[Alarm, ...]:
    """Return the alarms of one agent's thoughts on one question, in the order of the thoughts. `max_entropy` is the
    logarithm of the vocabulary's size. A thought that is not finite raises no other alarm."""
    found = list(_not_finite(stats))
    before: ThoughtStats | None = None
    for step, stat in enumerate(stats):
        if stat.is_finite:
            found += _of_one(step, stat, limits)
            found += _entropy_jump(step, before, stat, limits.entropy_jump * max_entropy)
        before = stat if stat.is_finite else None
    found += _repetitions(stats, limits)
    return tuple(sorted(found, key=lambda alarm: alarm.step or 0))


def find_idle_memory(
    effects: Sequence[Mapping[str, float]], limits: AlarmThresholds = LIMITS
) -> tuple[tuple[Alarm, ...], ...]:
    """Return, for each question, an alarm or a note for every agent whose segment has no effect on its reader.

    `effects` are those on one reader, by agent, for each of its traced questions. Memory that a question does not need
    changes nothing, however healthy it is. So it is a note if the same agent's memory has an effect on another
    question. It is a note, too, if the reader uses memory of other agents, unless the agent's own has no effect on any
    of at least `num_idle` questions.
    """
    has_effect = {source for one in effects for source, effect in one.items() if effect >= limits.effect}
    counts = Counter(source for one in effects for source in one)

    def note(source: str) -> str:
        if source in has_effect:
            return "it has an effect on other questions"
        if has_effect and counts[source] < limits.num_idle:
            return f"other memory has an effect, and {counts[source]} traced questions are too few to tell"
        return ""

    return tuple(
        tuple(
            Alarm(kind="no-effect", source=source, value=effect, limit=limits.effect, note=note(source))
            for source, effect in one.items()
            if effect < limits.effect
        )
        for one in effects
    )


def first_of_each_kind(alarms: Sequence[Alarm]) -> tuple[Alarm, ...]:
    """The first alarm of each kind, in order: for short reports."""
    first: dict[AlarmKind, Alarm] = {}
    for alarm in alarms:
        first.setdefault(alarm.kind, alarm)
    return tuple(first.values())


def _not_finite(stats: Sequence[ThoughtStats]) -> Iterator[Alarm]:
    """One alarm for all thoughts that are not finite: after the first all are."""
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
    """One alarm for each run of equal thoughts, at the step where it becomes long enough."""
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
