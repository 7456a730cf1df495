"""The guard (`--guard`): decides after an agent's thoughts, per question, what to do about alarms.

Dimensions: B rows (questions), N thoughts, E hidden size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from latentmas_ray.engine.diagnostics.alarms import ACTED_ON, ThoughtStats, find_alarms
from latentmas_ray.engine.diagnostics.logit_lens import LogitLens, ThoughtGeometry
from latentmas_ray.engine.diagnostics.trace import Alarm, Thought
from latentmas_ray.engine.turn import TurnRequest


class _GuardAction(IntEnum):
    """The action for one question; an integer, so that it can be broadcast."""

    NOTHING = 0
    WITHOUT_THOUGHTS = 1
    WITHDRAW = 2
    WRITE = 3


@dataclass(frozen=True)
class GuardDecision:
    """The decision for one turn: the alarms of every question, and the rows to act on."""

    alarms: tuple[tuple[Alarm, ...], ...] = ()
    without_thoughts: tuple[int, ...] = ()  # their segment ends with the prompt
    withdrawn: tuple[int, ...] = ()  # nothing is handed over
    written: tuple[int, ...] = ()  # of the withdrawn: the agent writes text instead


def decide(
    lens: LogitLens, work: TurnRequest, after_prompt_BE: Tensor, hidden_BNE: Tensor, counts: Sequence[int] | None = None
) -> GuardDecision:
    """Inspect all thoughts of a turn and return the guard's decision. Needs no vocabulary projection.

    `hidden_BNE` are the hidden states of the thoughts before realignment, of row b the first `counts[b]` (default:
    all); `after_prompt_BE` are those after the prompt. All ranks use rank 0's decision.
    """
    is_readable = after_prompt_BE.isfinite().all(-1).tolist()
    alarms = [
        (*(() if good else (Alarm(kind="not-finite"),)), *find_alarms(stats))
        for good, stats in zip(is_readable, measure_thoughts(lens, hidden_BNE, counts=counts), strict=True)
    ]
    wants = torch.tensor([_measure(work, good, found) for good, found in zip(is_readable, alarms, strict=True)])
    actions = [_GuardAction(int(measure)) for measure in lens.lm.ranks.broadcast(wants)]
    return GuardDecision(
        alarms=tuple(alarms),
        without_thoughts=tuple(row for row, action in enumerate(actions) if action is _GuardAction.WITHOUT_THOUGHTS),
        withdrawn=tuple(
            row for row, action in enumerate(actions) if action in (_GuardAction.WITHDRAW, _GuardAction.WRITE)
        ),
        written=tuple(row for row, action in enumerate(actions) if action is _GuardAction.WRITE),
    )


def measure_thoughts(
    lens: LogitLens,
    hidden_BNE: Tensor,
    thoughts: Sequence[Sequence[Thought]] | None = None,
    *,
    counts: Sequence[int] | None = None,
) -> list[list[ThoughtStats]]:
    """Return the statistics of every question's thoughts, of row b the first `counts[b]` (default: all); with entropies
    if the lens's `thoughts` are given."""
    num_rows, num_thoughts, _ = hidden_BNE.shape
    if not num_thoughts:
        return [[] for _ in range(num_rows)]
    geometry = lens.geometry(hidden_BNE.flatten(0, 1))
    units_BNE = lens.directions(hidden_BNE)
    cosines_BN = (units_BNE[:, 1:] * units_BNE[:, :-1]).sum(dim=-1).tolist()
    entropies = (
        [[thought.entropy if thought.tokens else None for thought in row] for row in thoughts] if thoughts else None
    )
    return [
        _of_row(
            geometry,
            row * num_thoughts,
            [None, *cosines][:count],
            entropies[row] if entropies else [None] * count,
        )
        for row, (cosines, count) in enumerate(zip(cosines_BN, counts or [num_thoughts] * num_rows, strict=True))
    ]


def max_entropy(lens: LogitLens) -> float:
    """The maximum entropy of a next token, in nats."""
    return math.log(lens.lm.num_embeddings)


def _of_row(
    geometry: ThoughtGeometry, first: int, likeness: Sequence[float | None], entropies: Sequence[float | None]
) -> list[ThoughtStats]:
    places = range(first, first + len(likeness))
    return [
        ThoughtStats(
            is_finite=bool(geometry.is_finite_N[place]),
            norm=float(geometry.norm_N[place]),
            distance=float(geometry.distance_N[place]),
            likeness=alike,
            entropy=entropy,
        )
        for place, alike, entropy in zip(places, likeness, entropies, strict=True)
    ]


def _measure(work: TurnRequest, is_readable: bool, alarms: Sequence[Alarm]) -> _GuardAction:
    hands_thoughts = work.hands_over != "prompt"
    is_bad = not is_readable or (hands_thoughts and any(alarm.kind in ACTED_ON for alarm in alarms))
    if not is_bad or work.guard not in ("drop", "text"):
        return _GuardAction.NOTHING
    if work.guard == "text":
        return _GuardAction.WRITE
    return _GuardAction.WITHOUT_THOUGHTS if is_readable else _GuardAction.WITHDRAW
