"""A served team on actors: all models on one set of them, texts as they are written, questions that are given up."""

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.serving.endless_model import make_endless
from latentmas_ray import LatentMAS
from tests.cases.endpoint import LoadedEndpoint, chunks_of, loaded_endpoint, texts_of

# In bfloat16 rounding depends on which questions are written at the same time.
FIELDS = {"dtype": "float32", "runtime": "ray", "latent_steps": 2, "batch_size": 4, "max_new_tokens": 24}
ASKED = [f"Nadia has {count} beads. Then Nadia finds 3 more. How many beads has Nadia now?" for count in range(2, 8)]
MODELS = {
    "latentmas/sequential": {"topology": "sequential"},
    "latentmas/sequential/single": {"topology": "sequential", "method": "single"},
    "latentmas/sequential/text": {"topology": "sequential", "method": "text"},
    "latentmas/hierarchical": {"topology": "hierarchical"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One whose texts are as long as a request allows: none ends before its test has seen it grow, or given it up."""
    return make_endless("tiny", tmp_path_factory.mktemp("endless"))


@pytest.fixture(scope="module")
def team(cluster: None, model: str) -> Iterator[LoadedEndpoint]:
    with loaded_endpoint("hierarchical", model=model, **FIELDS) as endpoint:
        yield endpoint


def test_all_models_answer_at_the_same_time_as_alone(team: LoadedEndpoint, model: str) -> None:
    """They share four actors; the greedy answers are those of one process."""
    expected = []
    for fields in MODELS.values():
        with LatentMAS(model, temperature=0.0, **{**FIELDS, "runtime": "local", **fields}) as mas:
            expected += [answer.answer for answer in mas.map(ASKED)]

    async def ask_all() -> list[str]:
        asked = [team.aask(text, model, stream=place % 2 == 0) for model in MODELS for place, text in enumerate(ASKED)]
        return [text for response in await asyncio.gather(*asked) for text in texts_of(response)]

    assert team.run(ask_all()) == expected


def test_texts_come_as_they_are_written(team: LoadedEndpoint) -> None:
    chunks = chunks_of(team.ask("Tell a story.", stream=True, max_tokens=200))
    deltas = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    assert sum(map(bool, deltas)) > 1
    assert all(team.endpoint.teams.streams(model) for model in MODELS)


def test_questions_that_are_given_up_leave_nothing(team: LoadedEndpoint) -> None:
    teams = team.endpoint.teams

    async def leave() -> None:
        tasks = [asyncio.create_task(team.aask("Tell a story.", stream=True, max_tokens=3000)) for _ in range(6)]
        while teams.num_running < len(tasks):
            assert not any(task.done() for task in tasks), "a text has ended before"
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while team.endpoint.num_open or teams.num_lots:
            await asyncio.sleep(0.01)

    team.run(leave())
    values = team.endpoint.metrics.text().decode().splitlines()
    for name in ("latentmas_turns_in_flight", "latentmas_memory_in_flight_bytes"):
        assert {line.rpartition(" ")[2] for line in values if line.startswith(f"{name}{{")} == {"0.0"}
    assert team.texts(ASKED[0])
