"""Lists of topologies, and reloads that come at a wrong time."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentmas_ray.errors import InputError
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
