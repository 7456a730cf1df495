"""The application of Ray Serve on a real Ray: it answers as `latentmas ask`, is replaced without a lost request, and
leaves nothing."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import psutil
import pytest
import ray

from latentmas_ray import LatentMAS
from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.tasks import load_questions
from tests.cases.clients import ask_all, chat_questions

pytestmark = [
    pytest.mark.serve,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray Serve's own models
]

TOPOLOGY = """\
name: pair
agents:
  - {name: planner, prompt: "{{ question }}"}
  - {name: judger, reads: [planner], thinks: text, prompt: "{{ question }}"}
"""
TEAM = "latentmas/pair"
APPLICATION = "team"
FIELDS = {"model": "tiny", "dtype": "float32", "temperature": 0, "max_new_tokens": 32, "placement": "colocate"}
QUESTIONS = [question.question for question in load_questions("chain", 12)]


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("serve") / "pair.yaml"
    path.write_text(TOPOLOGY)
    return str(path)


@pytest.fixture(scope="module")
def url(cluster: None, topology: str) -> Iterator[str]:
    from ray import serve

    from benchmarks.serving.ray_serve import start_serve
    from latentmas_ray.serve.ray_app import app

    free = ray.available_resources()["CPU"]
    try:
        root = start_serve()
        serve.run(app({**FIELDS, "topology": topology, "latent_steps": 2}), name=APPLICATION, route_prefix="/")
        yield f"{root}/v1"
    finally:
        serve.shutdown()
    while ray.available_resources().get("CPU", 0.0) < free:  # those of the team's actors
        time.sleep(0.2)


def asked_alone(topology: str, latent_steps: int) -> list[str]:
    fields = {**FIELDS, "runtime": "local", "topology": topology, "latent_steps": latent_steps}
    fields.pop("placement")
    with LatentMAS(**fields) as mas:  # type: ignore[arg-type]
        return [mas.ask(question).answer for question in QUESTIONS]


@pytest.fixture(scope="module")
def answers(topology: str) -> list[str]:
    return asked_alone(topology, 2)


def test_it_answers_as_ask_does(url: str, answers: list[str]) -> None:
    root = url.removesuffix("/v1")
    assert httpx2.get(f"{root}/ready").json() == {"status": "ready"}
    models = httpx2.get(f"{url}/models").json()["data"]
    assert [one["id"] for one in models] == [TEAM, f"{TEAM}/single", f"{TEAM}/text"]
    assert not any(one["latentmas"]["streams"] for one in models)  # agents that share an actor write batch by batch
    replies = asyncio.run(ask_all(url, chat_questions(QUESTIONS, TEAM), 4))
    assert {reply.outcome for reply in replies} == {"answered"}
    assert {reply.question.text: reply.text for reply in replies} == dict(zip(QUESTIONS, answers, strict=True))


def test_errors_are_those_of_the_endpoint(url: str) -> None:
    body = {"model": "latentmas/mistyped", "messages": [{"role": "user", "content": "Why?"}]}
    refused = httpx2.post(f"{url}/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "model")


@pytest.mark.slow
def test_another_version_takes_over_without_a_lost_request(url: str, topology: str, answers: list[str]) -> None:
    """The new team has other latent steps; a request gets the answer of the old one or of the new one."""
    from ray import serve

    from latentmas_ray.serve.ray_app import app

    async def ask_and_change() -> list[tuple[str, str, str]]:
        asking = asyncio.create_task(ask_all(url, chat_questions(QUESTIONS * 4, TEAM), 4))
        changed = app({**FIELDS, "topology": topology, "latent_steps": 0})
        await asyncio.to_thread(serve.run, changed, name=APPLICATION, route_prefix="/")
        return [(reply.question.text, reply.outcome, reply.text) for reply in await asking]

    allowed = {(question, "answered", answer) for question, answer in zip(QUESTIONS, answers, strict=True)}
    allowed |= {
        (question, "answered", answer) for question, answer in zip(QUESTIONS, asked_alone(topology, 0), strict=True)
    }
    assert set(asyncio.run(ask_and_change())) <= allowed


@pytest.mark.slow
def test_an_ingress_that_is_killed_is_replaced_with_its_team(url: str, topology: str) -> None:
    """What had begun on it ends, and differs from an answer; what had not is asked again by its client."""
    replica, before = ingress(), agents()

    async def ask_and_kill() -> list[tuple[str, str]]:
        asking = asyncio.create_task(ask_all(url, chat_questions(QUESTIONS, TEAM), 4))
        await asyncio.sleep(0.5)
        replica.kill()
        return [(reply.question.text, reply.outcome) for reply in await asking]

    outcomes = dict(asyncio.run(ask_and_kill()))
    assert "unreadable" not in outcomes.values()
    assert before
    while len(now := agents()) != len(before) or now & before:
        time.sleep(0.2)
    replies = asyncio.run(ask_all(url, chat_questions(QUESTIONS, TEAM), 4))
    assert {reply.outcome for reply in replies} == {"answered"}


def ingress() -> psutil.Process:
    (found,) = actors("ServeReplica")
    return found


def agents() -> set[int]:
    return {one.pid for one in actors("AgentActor")}


def actors(word: str) -> list[psutil.Process]:
    """The processes of this Ray whose titles have this word."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if word in " ".join(one.cmdline()[:1]):
                found.append(one)
    return found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mistyped": 1}, ["mistyped"]),
        ({"latent_steps": -1}, ["latent_steps", "-1"]),
        ({"runtime": "local"}, ["runtime", "leave it out"]),
        ({"output": "runs/a"}, ["output", "leave it out"]),
        ({"method": "text"}, ["method", "leave it out"]),
        ({"memory": "none"}, ["memory", "latentmas.memory"]),
        ({"trace": 1}, ["trace", "latentmas.trace"]),
        ({"task": "notes"}, ["'notes'", "a request to sequential does not have it"]),
        ({"topology": "mistyped"}, ["topology", "mistyped"]),
        ({"topologies": 3}, ["topologies", "3"]),
        ({"limits": {"mistyped": 1}}, ["limits.mistyped"]),
        ({"limits": {"max_running": 0}}, ["max_running", "0"]),
        ({"limits": "none"}, ["limits", "none"]),
    ],
)
def test_wrong_arguments_are_one_line_before_anything_starts(arguments: dict[str, object], words: list[str]) -> None:
    from latentmas_ray.serve.ray_app import app

    with pytest.raises((ConfigError, TopologyError)) as error:
        app(arguments)
    assert all(word in str(error.value) for word in words), error.value


def test_the_files_of_the_cluster_folder_are_configurations_of_serve() -> None:
    import yaml
    from ray.serve.schema import ServeDeploySchema

    from latentmas_ray.serve.ray_app import DEPLOYMENT
    from latentmas_ray.serve.ray_arguments import AppArguments

    root = Path(__file__).parents[2] / "cluster"
    files = [yaml.safe_load(path.read_text()) for path in sorted((root / "serve").glob("*.yaml"))]
    services = [yaml.safe_load(path.read_text()) for path in sorted((root / "kuberay").glob("rayservice-*.yaml"))]
    configurations = files + [yaml.safe_load(one["spec"]["serveConfigV2"]) for one in services]
    assert len(configurations) >= 3
    for one in configurations:
        for application in ServeDeploySchema.model_validate(one).applications:
            assert application.import_path == "latentmas_ray.serve.ray_app:app"
            AppArguments.read(application.args)
            assert [deployment.name for deployment in application.deployments] == [DEPLOYMENT]
