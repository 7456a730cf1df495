"""Lists of topologies, and reloads that come at a wrong time."""

import asyncio
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentmas_ray.errors import ConfigError, InputError
from latentmas_ray.serve.reload import Reloader, TopologyList
from latentmas_ray.system.serving.fleet import topology_name


@pytest.mark.parametrize(
    "text",
    [
        "topologies: [~no.such.user/mine.yaml]",
        "topologies: []\n1: 2\nmore: 3",
        "topologies: []\n2020-01-01: a",
        "topologies: mine.yaml",
        "topologies: [1]",
        "topologies: ['']",
        "- mine.yaml",
        "[",
        "",
    ],
)
def test_a_wrong_list_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        TopologyList((), str(path)).read()
    assert len(str(caught.value).splitlines()) == 1


def test_an_empty_list_says_what_a_list_is(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("\n")
    with pytest.raises(ConfigError, match=r"topologies_file: got .*nothing'; it must have `topologies:`"):
        TopologyList((), str(path)).read()


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """Neither a start nor a reload would end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigError, match=f"topologies_file: got '{path}'; it must be a YAML file"):
            TopologyList((), str(path)).read()


def test_a_topology_that_cannot_be_served_is_named_where_it_stands(tmp_path: Path) -> None:
    listed = TopologyList(("chain",), str(tmp_path / "list.yaml"))
    errors = [ConfigError("topologies", name, "it must be another") for name in ("chain", "nope")]
    assert str(listed.located(errors[0])) == str(errors[0])
    assert (
        str(listed.located(errors[1])) == f"topologies_file: got 'nope (in {tmp_path}/list.yaml)'; it must be another"
    )
    assert TopologyList((), None).located(errors[1]) is errors[1]


def test_names_have_no_spaces_around_them(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("topologies: [' sequential ', ' mine.yaml ']")
    assert TopologyList(("single",), str(path)).read() == ("single", "sequential", str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("path", ["teams/mine.yaml", "mine.yml", "teams/mine.YAML", "mine"])
def test_a_file_is_served_under_its_stem(path: str) -> None:
    assert topology_name(path) == "mine"


def test_nothing_is_reloaded_while_the_server_ends() -> None:
    """The actors end then, and a reload would start others."""
    said: list[str] = []
    endpoint: Any = SimpleNamespace(teams=SimpleNamespace(is_ready=True), is_draining=True)
    assert not asyncio.run(Reloader(endpoint, TopologyList((), None), said.append).reload())
    assert said == ["not reloaded: the server ends"]


def test_a_reload_that_fails_by_a_mistake_of_ours_is_said() -> None:
    def fail(names: tuple[str, ...]) -> None:
        raise KeyError("unexpected")

    said: list[str] = []
    teams = SimpleNamespace(is_ready=True, with_topologies=fail)
    endpoint: Any = SimpleNamespace(teams=teams, is_draining=False)
    assert not asyncio.run(Reloader(endpoint, TopologyList((), None), said.append).reload())
    assert said == ["not reloaded, what was served before is served: KeyError: 'unexpected'"]


def test_a_signal_while_the_models_are_loaded_is_not_lost() -> None:
    said: list[str] = []
    teams = SimpleNamespace(is_ready=False, models={})
    endpoint: Any = SimpleNamespace(teams=teams, is_draining=False)

    async def load() -> None:
        reloader = Reloader(endpoint, TopologyList(("unknown",), None), said.append)
        reloader.install()
        os.kill(os.getpid(), signal.SIGHUP)
        while not said:
            await asyncio.sleep(0.01)
        assert said == ["SIGHUP: the topologies are read again once the models are loaded"]
        teams.is_ready = True
        reloader.reload_if_wanted()
        while len(said) < 2:
            await asyncio.sleep(0.01)

    before = signal.getsignal(signal.SIGHUP)
    try:
        asyncio.run(load())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert said[1].startswith("not reloaded, what was served before is served")  # it has read them
