"""What takes time in a simulated run: the timers of turns, and the driver."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TurnTimers:
    """How long turns take, in seconds."""

    by_agent: Mapping[str, float]  # the mean of one turn over one batch
    spread: float = 0.0  # a turn takes its mean times a factor, drawn evenly from 1 - spread … 1 + spread
    seed: int = 0
    latency: float = 0.0  # from the end of a turn until its readers and the driver know

    def of_turn(self, agent: str, question_ids: Sequence[str]) -> float:
        """Return the seconds of one turn. They depend on its agent and its questions, not on when it runs."""
        if not self.spread:
            return self.by_agent[agent]
        drawn = random.Random(f"{self.seed} {agent} {question_ids[0]}").uniform(-self.spread, self.spread)
        return self.by_agent[agent] * (1.0 + drawn)


@dataclass(kw_only=True)
class DriverCost:
    """The driver's processor time, in seconds. With `is_charged` virtual time passes with it."""

    is_charged: bool
    runtime_per_turn: float = 0.0  # for the calls of a real runtime, which the simulated one does not make
    own: float = 0.0  # of the scheduler and the choice of replicas, as measured
    num_turns: int = 0

    @property
    def total(self) -> float:
        """With the calls of a real runtime."""
        return self.own + self.num_turns * self.runtime_per_turn
