"""Turns of agents in this process that begin when a test says so: what it waits for comes before any of them ends."""

import threading
from typing import Any

import pytest

from latentmas_ray.engine.runner import TurnRunner

PATIENCE_SECONDS = 60.0


def hold_turns(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold all turns from now on; the event lets them go."""
    may_begin, run = threading.Event(), TurnRunner.run

    def held(*arguments: Any, **more: Any) -> Any:
        assert may_begin.wait(PATIENCE_SECONDS)
        return run(*arguments, **more)

    monkeypatch.setattr(TurnRunner, "run", held)
    return may_begin
