"""A served team answers as `latentmas ask` does, whole and as a stream, and each request with its own settings."""

import asyncio
from collections.abc import Iterator
from itertools import groupby

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.tasks import load_questions
from tests.cases.endpoint import LoadedEndpoint, chunks_of, loaded_endpoint, records_of, texts_of
from tests.cases.held_turns import hold_turns

# In bfloat16 rounding depends on which questions are written at the same time.
FIELDS = {"dtype": "float32", "runtime": "local", "latent_steps": 2, "batch_size": 8}
ASKED = [question.question for question in load_questions("chain", 8)]
METHODS = {"latent": "latentmas/sequential", "single": "latentmas/sequential/single"}
STEPS = 4  # of requests that set their own


@pytest.fixture(scope="module")
def team() -> Iterator[LoadedEndpoint]:
    with loaded_endpoint("hierarchical", **FIELDS) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def expected() -> dict[str, list[str]]:
    """What `ask` answers, by method."""
    answers = {}
    for method in METHODS:
        with LatentMAS("tiny", temperature=0.0, method=method, **FIELDS) as mas:
            answers[method] = [mas.ask(text).answer for text in ASKED]
    return answers


@pytest.mark.parametrize("concurrency", [1, 16])
def test_answers_are_those_of_ask(team: LoadedEndpoint, expected: dict[str, list[str]], concurrency: int) -> None:
    """Also where questions of both methods, streams and whole answers, come at the same time."""
    asked = [(method, place, place % 2 == 0) for method in METHODS for place in range(len(ASKED))]
    limit = asyncio.Semaphore(concurrency)

    async def ask(method: str, place: int, streams: bool) -> str:
        async with limit:
            (text,) = texts_of(await team.aask(ASKED[place], METHODS[method], stream=streams))
            return text

    async def ask_all() -> list[str]:
        return await asyncio.gather(*(ask(*one) for one in asked))

    assert team.run(ask_all()) == [expected[method][place] for method, place, _ in asked]


def test_questions_that_come_while_agents_think_are_one_batch(
    team: LoadedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_come = hold_turns(monkeypatch)

    async def ask_all() -> None:
        asked = [asyncio.create_task(team.aask(text)) for text in ASKED]
        while team.endpoint.teams.num_waiting < len(ASKED) - 1:
            await asyncio.sleep(0.01)
        have_come.set()
        await asyncio.gather(*asked)

    before = _turns(team)
    team.run(ask_all())
    assert _turns(team) - before == 2 * 4  # the first question alone, the others together; each by four agents


def test_other_topologies_are_served_by_the_same_actors(team: LoadedEndpoint) -> None:
    with LatentMAS("tiny", temperature=0.0, topology="hierarchical", **FIELDS) as mas:
        assert team.texts(ASKED[0], "latentmas/hierarchical") == [mas.ask(ASKED[0]).answer]


def test_a_stream_grows_while_it_is_written(team: LoadedEndpoint) -> None:
    response = team.ask(ASKED[0], stream=True, stream_options={"include_usage": True})
    chunks = chunks_of(response)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert sum(bool(delta.get("content")) for delta in deltas) > 3
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == team.ask(ASKED[0]).json()["usage"]
    assert chunks[-1]["usage"]["latent_steps"] == 3 * FIELDS["latent_steps"]


@pytest.mark.parametrize("streams", [False, True])
def test_a_stop_text_ends_the_answer_before_it(
    team: LoadedEndpoint, expected: dict[str, list[str]], streams: bool
) -> None:
    whole = expected["latent"][0]
    stop = whole[4:7]
    response = team.ask(ASKED[0], stop=[stop, "never"], stream=streams)
    assert texts_of(response) == [whole[: whole.index(stop)]]
    if not streams:
        choice, usage = response.json()["choices"][0], response.json()["usage"]
        assert choice["finish_reason"] == "stop"
        assert usage["completion_tokens"] < team.ask(ASKED[0]).json()["usage"]["completion_tokens"]


def test_a_bound_on_tokens(team: LoadedEndpoint) -> None:
    answered = team.ask(ASKED[0], max_tokens=3).json()
    assert answered["choices"][0]["finish_reason"] == "length"
    assert answered["usage"]["completion_tokens"] == 3


def test_several_answers_with_a_seed_are_the_same_again_and_those_of_ask(team: LoadedEndpoint) -> None:
    fields = {"n": 3, "seed": 5, "temperature": 2.0, "top_p": 1.0, "max_tokens": 12}
    text = "Tell a story."  # which the model has not learnt: its answers have parts of characters, too
    whole = team.texts(text, **fields)
    assert texts_of(team.ask(text, stream=True, **fields)) == whole
    assert len(set(whole)) > 1
    with LatentMAS("tiny", temperature=2.0, top_p=1.0, seed=5, samples=3, max_new_tokens=12, **FIELDS) as mas:
        assert [vote.answer for vote in mas.ask(text).votes] == whole
    assert team.texts(text, **fields | {"seed": 6}) != whole


def test_latent_steps_and_memory_of_one_request(team: LoadedEndpoint) -> None:
    usage = team.ask(ASKED[0], latentmas={"latent_steps": STEPS}).json()["usage"]
    assert usage["latent_steps"] == 3 * STEPS
    usage = team.ask(ASKED[0], latentmas={"memory": "none"}).json()["usage"]
    assert usage["latent_steps"] == 0


def test_a_trace_says_what_every_agent_does_in_the_order_of_time(team: LoadedEndpoint) -> None:
    records = records_of(team.ask(ASKED[0], stream=True, latentmas={"trace": True}))
    agents = ["planner", "critic", "refiner", "judger"]
    assert [one["agent"] for one in records if one["what"] == "waits" and one.get("running")] == agents
    over = [one for one in records if "running" not in one]
    assert [agent for agent, _ in groupby(one["agent"] for one in over if one["what"] != "hands_over")] == agents
    thoughts = {one["agent"]: one["latent_steps"] for one in over if one["what"] == "thinks"}
    assert thoughts == dict.fromkeys(agents[:3], FIELDS["latent_steps"])
    handed = [(one["agent"], one["to"]) for one in over if one["what"] == "hands_over"]
    assert handed[:3] == [("planner", "critic"), ("planner", "refiner"), ("critic", "refiner")]
    whole = team.ask(ASKED[0], latentmas={"trace": True}).json()["latentmas"]["records"]
    ended = [(one["agent"], one["what"]) for one in whole if "running" not in one]
    assert ended == [(one["agent"], one["what"]) for one in over]  # a stream also says how far running turns are
    assert {one["what"] for one in whole if "running" in one} <= {"waits", "reads", "writes"}


def test_prompts_of_completions_are_questions(team: LoadedEndpoint, expected: dict[str, list[str]]) -> None:
    async def complete() -> object:
        body = {"model": "latentmas/sequential", "prompt": ASKED[:3]}
        return (await team.client.post("/v1/completions", json=body)).json()

    texts = [choice["text"] for choice in team.run(complete())["choices"]]
    assert texts == expected["latent"][:3]


def test_a_question_that_is_given_up_ends(team: LoadedEndpoint) -> None:
    """A client that leaves cancels the task that reads its stream."""
    teams = team.endpoint.teams

    async def leave() -> None:
        task = asyncio.create_task(team.aask(ASKED[0], n=8, temperature=2, max_tokens=4000, stream=True))
        while not teams.num_running:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while team.endpoint.num_open or teams.num_lots:
            await asyncio.sleep(0.01)

    team.run(leave())
    assert (teams.num_running, teams.num_waiting) == (0, 0)
    assert _value(team, "latentmas_turns_in_flight") == _value(team, "latentmas_memory_in_flight_bytes") == 0


def test_what_is_served_and_measured(team: LoadedEndpoint) -> None:
    async def get(path: str) -> object:
        return await team.client.get(path)

    models = {one["id"]: one["latentmas"] for one in team.run(get("/v1/models")).json()["data"]}
    assert list(models)[:3] == ["latentmas/sequential", "latentmas/sequential/single", "latentmas/sequential/text"]
    assert models["latentmas/hierarchical"]["agents"][-1]["thinks"] == "text"
    assert team.run(get("/v1/models/latentmas/sequential/text")).json()["id"] == "latentmas/sequential/text"
    assert team.run(get("/ready")).json() == {"status": "ready"}
    assert _value(team, "latentmas_serve_requests_total") > 10
    assert team.ask(ASKED[0], "latentmas/other").status_code == 404


def _turns(team: LoadedEndpoint) -> float:
    return _value(team, "latentmas_turns_total")


def _value(team: LoadedEndpoint, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = team.endpoint.metrics.text().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
