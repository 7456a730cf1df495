"""Which runs have actors that outlive their driver, and what makes actors unfit for the next one."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentmas_ray.config import make_config
from latentmas_ray.errors import ConfigError
from latentmas_ray.system import make_runtime as module
from latentmas_ray.system.make_runtime import detached_actors, make_runtime
from latentmas_ray.system.team.run_models import RunModels
from latentmas_ray.topology import load_topology

MODEL: Any = object()


def planner(tp: int = 1) -> Any:
    """A planner that has chosen no layout."""
    return SimpleNamespace(tp=tp, layout=None)


def models_of(model: Any, fields: dict[str, Any]) -> RunModels:
    return replace(RunModels.of(make_config(fields), load_topology("sequential")), model=model)


def joins(folder: Path, model: Any = "tiny", **later: Any) -> bool:
    """Whether a driver with other fields may use the actors of the one before."""
    fields: dict[str, Any] = {"output": str(folder), "detach": 60.0}
    first = detached_actors(make_config(fields), models_of(model, fields), planner())
    assert first is not None
    first._lock.close()  # it is killed
    second = detached_actors(
        make_config({**fields, "resume": True, **later}), models_of(model, {**fields, **later}), planner()
    )
    assert second is not None
    return first.key.derive("test", b"") == second.key.derive("test", b"")


@pytest.mark.parametrize(
    ("later", "fits"),
    [
        ({}, True),
        ({"overlap": False}, True),  # the driver's
        ({"detach": 600.0}, False),  # actors would end before their longer lease is renewed
        ({"turn_timeout": 5.0}, False),  # an actor bounds each text by it
        ({"replicas": 2}, False),
        ({"models": {"judger": "small"}}, False),
        ({"replicas": "auto"}, False),
    ],
)
def test_actors_are_used_again_only_if_they_would_be_made_the_same(
    later: dict[str, Any], fits: bool, tmp_path: Path
) -> None:
    assert joins(tmp_path, **later) == fits


def test_actors_with_a_model_object_are_not_used_again(tmp_path: Path) -> None:
    """Nobody knows whether its weights are those of the former driver's."""
    assert not joins(tmp_path, MODEL)


def test_ranks_that_a_search_has_chosen_do_not_join_a_new_driver(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the search chose tp 2, whose ranks do not join a new driver"):
        detached_actors(make_config({"output": str(tmp_path), "detach": 60.0}), models_of("tiny", {}), planner(tp=2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", [None, "local"])
def test_a_cluster_of_this_run_does_not_outlive_its_driver(
    address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(module, "choose_engines", lambda *_, **__: pytest.fail("it was not refused"))
    config = make_config({"output": str(tmp_path), "detach": 60.0, "address": address})
    with pytest.raises(ConfigError, match="it needs a cluster that outlives the driver"):
        make_runtime(config, models_of("tiny", {}), load_topology("sequential"), 1)
