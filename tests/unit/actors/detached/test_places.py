"""Placement groups of a run are found by their names: without Ray."""

from typing import Any

import pytest

from latentmas_ray.actors.detached import places
from latentmas_ray.actors.detached.places import group_suffix, remove_groups

OWN, OTHER, REMOVED = ("01" * 18, "02" * 18, "03" * 18)


def test_only_the_groups_of_the_run_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {
        OWN: {"state": "PENDING", "name": "latentmas_ray on a, start 1" + group_suffix("latentmas-1")},
        OTHER: {"state": "CREATED", "name": "latentmas_ray on a, start 1" + group_suffix("latentmas-12")},
        "04" * 18: {"state": "CREATED", "name": "latentmas_ray on a, start 1"},
        REMOVED: {"state": "REMOVED", "name": "latentmas_ray on a, start 2" + group_suffix("latentmas-1")},
    }
    removed: list[Any] = []
    monkeypatch.setattr(places, "placement_group_table", lambda: groups)
    monkeypatch.setattr(places, "remove_placement_group", removed.append)
    remove_groups("latentmas-1")
    assert [group.id.hex() for group in removed] == [OWN]
