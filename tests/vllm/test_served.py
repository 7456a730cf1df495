"""An endpoint whose answering agents write on vLLM: it says what an endpoint of our own engine says."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cases.endpoint import LoadedEndpoint, chunks_of, loaded_endpoint, texts_of

QUESTIONS = [f"Nadia has {count} beads. Then Nadia finds 3 more. How many beads has Nadia now?" for count in (4, 5, 6)]
MODELS = ["latentmas/sequential", "latentmas/sequential/single", "latentmas/sequential/text"]
FIELDS: dict[str, Any] = {"dtype": "float32", "latent_steps": 2, "max_new_tokens": 32, "batch_size": 4}
SAMPLED = {"n": 2, "seed": 5, "temperature": 1.2}


@pytest.fixture(scope="module")
def own() -> Iterator[LoadedEndpoint]:
    with loaded_endpoint(runtime="local", **FIELDS) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def served(cluster: None) -> Iterator[LoadedEndpoint]:
    with loaded_endpoint(runtime="ray", engine="vllm", **FIELDS) as endpoint:
        yield endpoint


@pytest.mark.parametrize("model", MODELS)
def test_every_model_answers_as_on_our_own_engine(own: LoadedEndpoint, served: LoadedEndpoint, model: str) -> None:
    async def ask_all() -> list[list[str]]:
        asked = [served.aask(text, model, stream=place == 1) for place, text in enumerate(QUESTIONS)]
        return [texts_of(response) for response in await asyncio.gather(*asked)]

    assert served.run(ask_all()) == [own.texts(text, model) for text in QUESTIONS]


def test_what_a_request_sets_is_the_same(own: LoadedEndpoint, served: LoadedEndpoint) -> None:
    stop = own.texts(QUESTIONS[0])[0][4:7]
    for fields in (SAMPLED, {"stop": stop}, {"max_tokens": 3}, {"latentmas": {"latent_steps": 1, "memory": "none"}}):
        assert served.texts(QUESTIONS[0], **fields) == own.texts(QUESTIONS[0], **fields), fields
        assert texts_of(served.ask(QUESTIONS[0], stream=True, **fields)) == own.texts(QUESTIONS[0], **fields), fields


def test_text_comes_as_it_is_written(served: LoadedEndpoint) -> None:
    chunks = chunks_of(served.ask("Tell a story.", stream=True, max_tokens=200))
    assert sum(bool(choice["delta"].get("content")) for chunk in chunks for choice in chunk["choices"]) > 1
    teams = served.endpoint.teams
    assert all(teams.streams(name) for name in MODELS)


def test_a_conversation_is_kept(own: LoadedEndpoint, served: LoadedEndpoint) -> None:
    texts = []
    for one in (own, served):
        messages: list[dict[str, str]] = []
        for text in (QUESTIONS[0], "Then Nadia loses 2 beads. How many beads has Nadia now?"):
            messages.append({"role": "user", "content": text})
            answered = one.ask(text, messages=messages, latentmas={"conversation": "c"}).json()
            messages.append({"role": "assistant", "content": answered["choices"][0]["message"]["content"]})
        assert answered["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        texts.append([message["content"] for message in messages])
    assert texts[0] == texts[1]


def test_clients_that_leave_leave_nothing(served: LoadedEndpoint) -> None:
    teams = served.endpoint.teams

    async def leave() -> None:
        tasks = [asyncio.create_task(served.aask("Tell a story.", stream=True, max_tokens=2000)) for _ in range(4)]
        while teams.num_running < len(tasks) and not all(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while served.endpoint.num_open or teams.num_lots:
            await asyncio.sleep(0.01)

    served.run(leave())
    assert served.texts(QUESTIONS[0])
