"""Segments that a reader waits for no longer."""

from typing import Any

import pytest
import ray

from latentmas_ray.actors.health import lost_segments
from latentmas_ray.actors.health.lost_segments import LostSegments
from latentmas_ray.errors import TransferError


def test_a_wait_ends_when_the_segment_comes_or_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    lost, looks = LostSegments(), iter([False, False, True, False, False])

    def wait(references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return (references, []) if next(looks) else ([], references)

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda reference: f"what {reference} has")
    reference: Any = "a"
    assert lost.wait_for(reference, "segment") == "what a has"
    lost.check("segment")
    lost.check(None)
    lost.add(["segment"])
    with pytest.raises(TransferError, match="lost with its node"):
        lost.wait_for(reference, "segment")


def test_the_oldest_names_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_segments, "_NUM_REMEMBERED", 2)
    lost = LostSegments()
    lost.add(["a", "b", "c"])
    lost.check("a")
    for name in ("b", "c"):
        with pytest.raises(TransferError):
            lost.check(name)
