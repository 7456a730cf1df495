"""The client `openai`, as people use it, against the real server."""

import asyncio
from collections.abc import Iterator

import openai
import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.tasks import load_questions
from tests.cases.running_server import RunningServer

TEAM = "latentmas/sequential"
QUESTIONS = [question.question for question in load_questions("chain", 6)]


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def answers() -> list[str]:
    """What `latentmas ask` answers."""
    fields = {"dtype": "float32", "temperature": 0, "latent_steps": 2, "max_new_tokens": 48}
    with LatentMAS("tiny", runtime="local", **fields) as mas:  # type: ignore[arg-type]
        return [mas.ask(question).answer for question in QUESTIONS]


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def test_models_are_the_team_with_each_method(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [TEAM, f"{TEAM}/single", f"{TEAM}/text"]


def test_an_answer_is_that_of_ask(client: openai.OpenAI, answers: list[str]) -> None:
    got = client.chat.completions.create(model=TEAM, messages=messages(QUESTIONS[0]), temperature=0)
    assert got.choices[0].message.content == answers[0]
    assert got.choices[0].finish_reason == "stop"
    assert got.usage is not None
    assert got.usage.prompt_tokens > 0
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens
    assert got.usage.model_extra == {"latent_steps": 6}


def test_a_stream_adds_up_to_the_answer(client: openai.OpenAI, answers: list[str]) -> None:
    stream = client.chat.completions.create(
        model=TEAM, messages=messages(QUESTIONS[1]), temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == answers[1]
    assert sum(map(bool, pieces)) > 1
    assert [chunk.usage is not None for chunk in chunks].index(True) == len(chunks) - 1


def test_many_at_a_time_get_their_own_answers(server: RunningServer, answers: list[str]) -> None:
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:

            async def ask(question: str) -> str:
                got = await client.chat.completions.create(model=TEAM, messages=messages(question), temperature=0)
                return got.choices[0].message.content or ""

            return list(await asyncio.gather(*map(ask, QUESTIONS)))

    assert asyncio.run(ask_all()) == answers


def test_an_async_stream_that_is_left_frees_its_question(server: RunningServer) -> None:
    async def leave() -> None:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model=f"{TEAM}/text", messages=messages(QUESTIONS[2]), temperature=0, stream=True
            )
            async with stream:
                async for _ in stream:
                    break
        while server.teams.num_running or server.teams.num_waiting:
            await asyncio.sleep(0.05)

    asyncio.run(leave())


def test_completions_answer_prompts(client: openai.OpenAI, answers: list[str]) -> None:
    got = client.completions.create(model=TEAM, prompt=QUESTIONS[:2], temperature=0)
    assert [choice.text for choice in got.choices] == answers[:2]


def test_our_own_fields_go_into_extra_body(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model=TEAM, messages=messages(QUESTIONS[0]), temperature=0, extra_body={"latentmas": {"latent_steps": 0}}
    )
    assert got.usage is not None
    assert got.usage.model_extra == {"latent_steps": 0}


def test_records_of_the_agents_do_not_disturb_the_client(client: openai.OpenAI, answers: list[str]) -> None:
    stream = client.chat.completions.create(
        model=TEAM,
        messages=messages(QUESTIONS[1]),
        temperature=0,
        stream=True,
        extra_body={"latentmas": {"trace": True}},
    )
    chunks = list(stream)
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == answers[1]
    records = [chunk.model_extra["latentmas"] for chunk in chunks if "latentmas" in (chunk.model_extra or {})]
    assert {record["agent"] for record in records} == {"planner", "critic", "refiner", "judger"}


def test_errors_are_those_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="latentmas/mistyped", messages=messages("Why?"))
    assert unknown.value.param == "model"
    with pytest.raises(openai.BadRequestError) as hot:
        client.chat.completions.create(model=TEAM, messages=messages("Why?"), temperature=-1)
    assert hot.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=TEAM, messages=messages("Why? " * 20_000))
    assert any(character.isdigit() for character in long.value.message)
