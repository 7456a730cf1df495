"""What vLLM must have before it is started, with made-up modules in its place."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from latentmas_ray.errors import ConfigError
from latentmas_ray.vllm import checks
from latentmas_ray.vllm.installed import Installed


class Engine:
    """Has a method, a field with a default and one without."""

    size: int
    number = 3

    def step(self) -> None: ...


@dataclass
class Config:
    """Its annotations are not among its values: so all classes are from Python 3.14 on."""

    layers: list[int] = field(default_factory=list)


del Config.__annotations__


class ChildEngine(Engine):
    """Inherits them."""


def check(monkeypatch: pytest.MonkeyPatch, *fields: tuple[str, str, tuple[str, ...]]) -> None:
    def import_module(name: str) -> Any:
        if name != "vllm.engine":
            raise ModuleNotFoundError(name)
        return SimpleNamespace(Engine=Engine, ChildEngine=ChildEngine, Config=Config, find=len)

    monkeypatch.setattr(checks, "import_module", import_module)
    monkeypatch.setattr(checks, "find_vllm", lambda: Installed("vllm", "0.32.9"))
    monkeypatch.setattr(checks, "_FIELDS", fields)
    checks.check_fields()


def test_fields_that_are_there_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    has_all = ("size", "number", "step")
    check(monkeypatch, ("vllm.engine", "Engine", has_all), ("vllm.engine", "ChildEngine", has_all))
    check(monkeypatch, ("vllm.engine", "find", ("__call__",)))
    check(monkeypatch, ("vllm.engine", "Config", ("layers",)))


def test_everything_that_is_lacking_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        check(
            monkeypatch,
            ("vllm.engine", "Engine", ("step", "_args")),
            ("vllm.engine", "Core", ("shutdown",)),
            ("vllm.moved", "Config", ("size",)),
        )
    assert str(caught.value).startswith(
        "engine: got 'vllm'; vllm 0.32.9 is not supported, as it has no Engine._args, vllm.engine.Core, "
        "vllm.moved.Config: pip install 'latentmas-ray[vllm]'"
    )
    assert "\n" not in str(caught.value)
