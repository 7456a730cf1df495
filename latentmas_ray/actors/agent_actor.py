"""The actor of one agent's replica: a thin shell around an engine and a transport."""

from collections.abc import Callable
from typing import Any

import torch

from latentmas_ray.actors.turn import Runner, carry_out
from latentmas_ray.engine.turn import TurnReport, TurnWork
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.transport import Transport


class AgentActor:
    """Runs as a Ray actor. Its segments are return values, so their owner is the driver and they outlive it."""

    def __init__(self, make_runner: Callable[[], Runner], transport: Transport, num_threads: int) -> None:
        self._make_runner = make_runner
        self._transport = transport
        self._num_threads = num_threads
        self._runner: Runner | None = None

    def load(self) -> tuple[KVCacheSpec, str]:
        """Load the model; what its memory looks like, and the device. Not in the constructor, because an error
        raised there would reach the driver as a dead actor instead of as itself."""
        torch.set_num_threads(self._num_threads)
        self._runner = self._make_runner()
        return self._runner.spec, self._runner.device

    def run_turn(self, work: TurnWork, *payloads: Any) -> tuple[Any, TurnReport]:
        """One turn: the packed segment and the report, as two objects."""
        assert self._runner is not None, "load() comes first"
        return carry_out(self._runner, self._transport, work, payloads)
