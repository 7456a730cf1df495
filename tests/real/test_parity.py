"""The tokens of the published implementation on a real model, in both runtimes, one question at a time and in batches
(tests/real/README.md)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.tasks.question import Question

if TYPE_CHECKING:
    from latentmas_ray.system.fields import RunFields
    from tests.real.conftest import LoadedModel

FOLDER = Path(__file__).parent
RECORDED = json.loads((FOLDER / "expected.json").read_text())["realign"]
EXPECTED = {result["id"]: result["answer_token_ids"] for result in RECORDED["results"]}
RECORDS = [json.loads(line) for line in (FOLDER / "questions.jsonl").read_text().splitlines()]
QUESTIONS = [
    Question(id=record["id"], question=record["question"], kind="text", gold=None, record=record) for record in RECORDS
]
SETTINGS: "RunFields" = {
    "latent_steps": RECORDED["latent_steps"],
    "max_new_tokens": RECORDED["max_new_tokens"],
    "temperature": 0.0,
    "dtype": "float32",
    "batch_size": 4,
}
TOPOLOGY = str(FOLDER / "topology.yaml")


@pytest.fixture(scope="module")
def local(loaded: "LoadedModel") -> Iterator[LatentMAS]:
    with LatentMAS(loaded.model, tokenizer=loaded.tokenizer, topology=TOPOLOGY, runtime="local", **SETTINGS) as mas:
        yield mas


@pytest.fixture(scope="module")
def on_ray(cluster: None, folder: Path) -> Iterator[LatentMAS]:
    """Four actors, each with the model of the folder."""
    with LatentMAS(str(folder), topology=TOPOLOGY, runtime="ray", **SETTINGS) as mas:
        yield mas


@pytest.fixture(params=["local", "on_ray"])
def mas(request: pytest.FixtureRequest) -> LatentMAS:
    team: LatentMAS = request.getfixturevalue(request.param)
    return team


def test_one_question_at_a_time(mas: LatentMAS) -> None:
    assert {question.id: list(mas.ask(question).answer_token_ids) for question in QUESTIONS} == EXPECTED


def test_batches_of_four(mas: LatentMAS) -> None:
    answers = list(mas.map(QUESTIONS))
    assert {answer.id: list(answer.answer_token_ids) for answer in answers} == EXPECTED
    assert [answer.batch_size for answer in answers] == [4, 4, 4, 4, 2, 2]
