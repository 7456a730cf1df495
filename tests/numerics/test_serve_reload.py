"""Topologies that change while requests run: no request is lost, and what cannot be served changes nothing."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving.endless_model import make_endless
from latentmas_ray.errors import ConfigError
from latentmas_ray.serve.reload import Reloader, TopologyList
from tests.cases.team_app import TeamApp

QUESTION = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"
TEAM = """name: mine
agents:
- name: {first}
  prompt: "Think about this: {{{{ question }}}}"
- name: judger
  thinks: text
  reads: [{first}]
  prompt: "{word} {{{{ question }}}}"
"""


SMALL = """name: mine
agents:
- {name: a, prompt: x, model: small}
- {name: b, thinks: text, reads: [a], prompt: x}
"""


LONG = {"max_tokens": 200}  # takes longer than the topologies are read again
KINDS: list[dict[str, Any]] = [{}, {"stream": True, "stream_options": {"include_usage": True}}]


class Files:
    """A list of topologies, and one topology, that a test changes."""

    def __init__(self, folder: Path) -> None:
        self.mine, self.other, self.list = folder / "mine.yaml", folder / "other.yaml", folder / "list.yaml"
        self.mine.write_text(TEAM.format(first="scout", word="Answer:"))
        self.other.write_text(TEAM.format(first="reader", word="Write:"))
        self.name("mine.yaml")

    def copy(self) -> Path:
        copied = self.mine.parent / "copied" / "mine.yaml"
        copied.parent.mkdir()
        copied.write_text(self.mine.read_text())
        return copied

    def name(self, *names: str) -> None:
        self.list.write_text("topologies:\n" + "".join(f"- {name}\n" for name in names))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def served(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamApp]:
    """Its texts are as long as a request allows."""
    model = make_endless("tiny", tmp_path_factory.mktemp("endless"))
    with TeamApp(topologies=TopologyList((), str(files.list)).read(), model=model) as app:
        yield app


class Told(list[str]):
    """The lines that a reload has written."""


def reload(served: TeamApp, files: Files) -> tuple[bool, str]:
    told = Told()
    done = served.run(Reloader(served.endpoint, TopologyList((), str(files.list)), told.append).reload())
    (line,) = told
    assert "\n" not in line
    return done, line


def body(model: str = "latentmas/mine", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, **more}


def answer(served: TeamApp, model: str = "latentmas/mine", **more: Any) -> tuple[str, int]:
    response = served.ask("POST", "/v1/chat/completions", body(model, **more))
    assert response.status_code == 200, response.text
    return answer_of(response.text)


def models(served: TeamApp) -> set[str]:
    return {one["id"] for one in served.ask("GET", "/v1/models").json()["data"]}


def test_requests_in_flight_end_on_the_old_topology_and_new_ones_get_the_new(served: TeamApp, files: Files) -> None:
    old = answer(served, **LONG)
    before = served.endpoint.teams

    async def change_meanwhile() -> list[Any]:
        running = [
            asyncio.create_task(served.request("POST", "/v1/chat/completions", body(**KINDS[index % 2], **LONG)))
            for index in range(12)
        ]
        while before.num_open < len(running):
            await asyncio.sleep(0.001)
        files.mine.write_text(TEAM.format(first="scribe", word="Say in one short line:"))
        files.name("mine.yaml", "other.yaml")
        told = Told()
        assert await Reloader(served.endpoint, TopologyList((), str(files.list)), told.append).reload()
        assert "earlier requests still run" in told[0]
        later = [asyncio.create_task(served.request("POST", "/v1/chat/completions", body())) for _ in range(4)]
        return [await one for one in (*running, *later)]

    responses = served.run(change_meanwhile())
    assert [response.status_code for response in responses] == [200] * 16
    new = answer(served)
    assert [answer_of(response.text) for response in responses] == [old] * 12 + [new] * 4
    assert new != old  # else the test would show nothing
    assert served.endpoint.teams is not before
    assert before.num_open == 0
    assert {"latentmas/mine/single", "latentmas/other", "latentmas/other/text"} <= models(served)


def answer_of(response: str) -> tuple[str, int]:
    """The text of a response, whole or streamed, and the tokens of its prompts, by which topologies differ."""
    if not response.startswith("data: "):
        whole = json.loads(response)
        return whole["choices"][0]["message"]["content"], whole["usage"]["prompt_tokens"]
    chunks = [json.loads(line[6:]) for line in response.splitlines() if line.startswith("data: {")]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    return text, chunks[-1]["usage"]["prompt_tokens"]


def test_a_topology_that_is_gone_ends_its_requests_and_is_unknown_to_new_ones(served: TeamApp, files: Files) -> None:
    async def drop_meanwhile() -> list[Any]:
        running = [asyncio.create_task(served.request("POST", "/v1/chat/completions", body())) for _ in range(3)]
        while served.endpoint.teams.num_open < len(running):
            await asyncio.sleep(0.001)
        files.name("other.yaml")
        assert await Reloader(served.endpoint, TopologyList((), str(files.list)), Told().append).reload()
        running.append(asyncio.create_task(served.request("POST", "/v1/chat/completions", body())))
        return [(await one).status_code for one in running]

    assert served.run(drop_meanwhile()) == [200, 200, 200, 404]
    assert "latentmas/mine" not in models(served)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda files: files.mine.write_text("name: mine\nagents: [\n"), "mine.yaml:"),
        (lambda files: files.mine.write_text("name: mine\nagents:\n- name: a\n  prompt: '{{ oh no'\n"), "agents.a"),
        (lambda files: files.mine.unlink(), "mine.yaml"),
        (lambda files: files.list.unlink(), "topologies_file"),
        (lambda files: files.list.write_text("topologies: mine.yaml\n"), "topologies_file"),
        (lambda files: files.list.write_text("- mine.yaml\n"), "mapping"),
        (lambda files: files.list.write_bytes(b"topologies: [\xff]\n"), "UTF-8"),
        (lambda files: files.name("sequentail"), "did you mean"),
        (lambda files: files.name("mine.yaml", str(files.copy())), "another topology is called mine"),
        (lambda files: files.mine.write_text(SMALL), "its agent a thinks in latent space with a model"),
    ],
)
def test_what_cannot_be_served_leaves_the_old_and_is_said_in_one_line(
    files: Files, change: Any, reason: str, shared: TeamApp
) -> None:
    before = shared.endpoint.teams
    change(files)
    done, line = reload(shared, files)
    assert (done, shared.endpoint.teams is before) == (False, True)
    assert line.startswith("not reloaded, what was served before is served: ")
    assert reason in line
    assert shared.ask("GET", "/ready").status_code == 200


@pytest.fixture(scope="module")
def shared() -> Iterator[TeamApp]:
    with TeamApp() as app:
        yield app


def test_the_old_is_served_after_a_failed_reload(served: TeamApp, files: Files) -> None:
    old = answer(served)
    files.mine.write_text("agents: 3")
    assert not reload(served, files)[0]
    assert answer(served) == old


def test_a_list_that_is_wrong_is_refused_at_the_start(files: Files) -> None:
    with pytest.raises(ConfigError, match="topologies_file"):
        TopologyList((), str(files.list) + ".none").read()
    assert TopologyList(("hierarchical",), None).read() == ("hierarchical",)
    files.name("sequential")
    assert TopologyList((), str(files.list)).read() == ("sequential",)
