"""An endpoint on actors: conversations whose memory the actors read, and topologies that change while they work."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from latentmas_ray.serve.reload import Reloader, TopologyList
from tests.cases.team_app import TeamApp

SAID = [
    "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?",
    "Then Nadia loses 2 beads. How many beads has Nadia now?",
    "Then Nadia finds 4 more. How many beads has Nadia now?",
]
# The second agent reads the memory of the first, and both read the conversation's before.
PAIR = """name: pair
agents:
- name: scout
  prompt: "Think about this: {{ question }}"
- name: judger
  thinks: text
  reads: [scout]
  prompt: "{{ question }}"
"""
# In bfloat16 rounding depends on which questions are written at the same time, and on the number of torch's threads.
FIELDS: dict[str, Any] = {
    "dtype": "float32", "runtime": "ray", "latent_steps": 2, "max_new_tokens": 24, "batch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("topologies") / "pair.yaml"
    path.write_text(PAIR)
    return str(path)


@pytest.fixture(scope="module")
def served(cluster: None, pair: str) -> Iterator[TeamApp]:
    with TeamApp(topology=pair, **FIELDS) as app:
        yield app


def body(messages: list[dict[str, str]], model: str = "latentmas/pair", **options: Any) -> dict[str, Any]:
    return {"model": model, "messages": messages, "temperature": 0, "latentmas": options}


def converse(served: TeamApp, name: str | None, model: str) -> list[Any]:
    """Hold a conversation, whose memory is kept if it has a name; return its messages and the last response."""
    messages: list[dict[str, str]] = []
    for text in SAID:
        messages.append({"role": "user", "content": text})
        asked = body(messages, model, conversation=name)
        last = served.ask("POST", "/v1/chat/completions", asked).json()
        messages = [*messages, last["choices"][0]["message"] | {"refusal": None}]
    return [messages[:-1], last]


@pytest.mark.parametrize("model", ["latentmas/pair", "latentmas/pair/text", "latentmas/pair/single"])
def test_kept_memory_is_read_by_actors_as_in_one_process(served: TeamApp, pair: str, model: str) -> None:
    messages, last = converse(served, model.replace("/", "."), model)
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    lost = served.ask("POST", "/v1/chat/completions", body(messages, model, conversation="lost." + model[-4:])).json()
    assert lost["choices"] == last["choices"]
    with TeamApp(topology=pair, **{**FIELDS, "runtime": "local"}) as local:
        assert converse(local, "same", model)[1]["choices"] == last["choices"]


def test_actors_stay_while_topologies_change_and_no_request_is_lost(served: TeamApp, tmp_path: Path) -> None:
    other, names = tmp_path / "other.yaml", tmp_path / "list.yaml"
    other.write_text(PAIR.replace("name: pair", "name: other").replace("scout", "reader"))
    names.write_text("topologies: [other.yaml, hierarchical]\n")
    before, actors = served.endpoint.teams, actors_of()
    told: list[str] = []

    async def change_meanwhile() -> list[int]:
        asked = [body([{"role": "user", "content": text}]) | {"stream": True} for text in SAID * 4]
        running = [asyncio.create_task(served.request("POST", "/v1/chat/completions", one)) for one in asked]
        while before.num_open < len(running):
            await asyncio.sleep(0.001)
        reloader = Reloader(served.endpoint, TopologyList((), str(names)), told.append)
        assert await reloader.reload(), told
        models = ("latentmas/other", "latentmas/hierarchical", "latentmas/pair")
        running += [
            asyncio.create_task(
                served.request("POST", "/v1/chat/completions", body([{"role": "user", "content": SAID[0]}], model))
            )
            for model in models
        ]
        responses = [await one for one in running]
        assert not any("error" in response.text for response in responses)
        return [response.status_code for response in responses]

    assert served.run(change_meanwhile()) == [200] * (len(SAID) * 4 + 3)
    assert served.endpoint.teams is not before
    assert actors_of() == actors != set()


def actors_of() -> set[int]:
    """The processes of the agents' actors on this Ray."""
    found = set()
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "Actor" in " ".join(one.cmdline()[:1]):
                found.add(one.pid)
    return found
