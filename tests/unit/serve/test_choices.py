"""The number of texts that an answer has, where the server or the request sets it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cases.served_app import MODEL, PAIR, ServedApp

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    path: Path = tmp_path_factory.mktemp("topologies") / "pair.yaml"
    path.write_text(PAIR)
    with ServedApp(str(path), samples=2, temperature=0.7) as app:
        yield app


def indexes(text: str, field: str) -> list[int]:
    """The indexes of the choices that have `field`, in the order of the stream."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    chunks: list[Any] = [json.loads(line) for line in lines]
    return [one["index"] for chunk in chunks for one in chunk["choices"] if (one.get("delta") or one).get(field)]


@pytest.mark.parametrize(("more", "count"), [({}, 2), ({"n": 1}, 1), ({"n": 3}, 3)])
def test_a_chat_has_as_many_choices_streamed_or_not(served: ServedApp, more: dict[str, int], count: int) -> None:
    whole = served.chat(**more).json()
    assert [one["index"] for one in whole["choices"]] == list(range(count))
    assert indexes(served.chat(stream=True, **more).text, "role") == list(range(count))


def test_prompts_share_no_choice(served: ServedApp) -> None:
    asked = {"model": MODEL, "prompt": ["How many?", "Why?"], "max_tokens": 2, "stream": True}
    streamed = served.ask("POST", "/v1/completions", json.dumps(asked).encode(), JSON)
    assert sorted(indexes(streamed.text, "finish_reason")) == [0, 1, 2, 3]


def test_a_conversation_needs_one_answer(served: ServedApp) -> None:
    refused = served.chat(latentmas={"conversation": "c"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
    assert served.chat(latentmas={"conversation": "c"}, n=1).status_code == 200
