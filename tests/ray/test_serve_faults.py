"""An endpoint whose agents are actors, while some of them die and clients leave."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.tasks import load_questions
from tests.cases.clients import ask_all, chat_questions, leave_all, wait_until_idle
from tests.cases.running_server import RunningServer, running_server

pytestmark = [pytest.mark.serve, pytest.mark.slow, pytest.mark.usefixtures("cluster")]

TOPOLOGY = """\
name: pair
agents:
  - {name: planner, prompt: "{{ question }}"}
  - {name: judger, reads: [planner], thinks: text, prompt: "{{ question }}"}
"""
TEAM = "latentmas/pair"
# In float32 an answer does not depend on other questions of its batch.
FIELDS = {"dtype": "float32", "temperature": 0, "latent_steps": 2, "max_new_tokens": 48}
QUESTIONS = [question.question for question in load_questions("chain", 40)]
NUM_AGENTS = 2


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("serve") / "pair.yaml"
    path.write_text(TOPOLOGY)
    return str(path)


@pytest.fixture(scope="module")
def answers(topology: str) -> dict[str, str]:
    with LatentMAS("tiny", topology=topology, runtime="local", **FIELDS) as mas:  # type: ignore[arg-type]
        return {question: mas.ask(question).answer for question in QUESTIONS}


@pytest.fixture(scope="module")
def server(cluster: None, topology: str) -> Iterator[RunningServer]:
    with running_server(topology=topology, **FIELDS) as running:
        yield running


def actors() -> list[int]:
    """The processes of the agents' actors, oldest first."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if " ".join(one.cmdline()[:1]).startswith(("ray::AgentActor", "ray::TextActor")):
                found.append((one.create_time(), one.pid))
    return [pid for _, pid in sorted(found)]


def outcomes(server: RunningServer, *, kill_after: float, which: int) -> list[tuple[str, str, str]]:
    """Ask all questions, and kill an actor meanwhile."""

    async def ask() -> list[tuple[str, str, str]]:
        asking = asyncio.create_task(ask_all(server.url, chat_questions(QUESTIONS, TEAM), 8))
        await asyncio.sleep(kill_after)
        os.kill(actors()[which], signal.SIGKILL)
        return [(reply.question.text, reply.outcome, reply.text) for reply in await asking]

    return asyncio.run(ask())


@pytest.mark.parametrize("which", range(NUM_AGENTS))
def test_an_actor_that_is_killed_changes_no_answer(server: RunningServer, answers: dict[str, str], which: int) -> None:
    """The work is done again by the actor that takes its place; streams that had begun go on where they were."""
    got = outcomes(server, kill_after=0.5, which=which)
    assert sorted(got) == sorted((question, "answered", answer) for question, answer in answers.items())
    wait_until_idle(server.teams)
    while len(actors()) != NUM_AGENTS:
        time.sleep(0.2)


def test_clients_that_leave_leave_no_memory_in_actors(server: RunningServer) -> None:
    asyncio.run(leave_all(server.url, QUESTIONS[:20], 8, TEAM))
    wait_until_idle(server.teams)
    before = sum(psutil.Process(pid).memory_info().rss for pid in actors())
    asyncio.run(leave_all(server.url, QUESTIONS * 3, 8, TEAM))
    wait_until_idle(server.teams)
    after = sum(psutil.Process(pid).memory_info().rss for pid in actors())
    assert after - before < 60 * 2**20
    assert server.num_open == 0
