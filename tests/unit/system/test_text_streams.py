"""`stream` and `astream`: the text while it is written, then the answer."""

import asyncio
from collections.abc import Iterator

import pytest

from latentmas_ray import Answer, LatentMAS
from latentmas_ray.errors import QuestionsFailedError

FIELDS = {"runtime": "local", "latent_steps": 2, "temperature": 0.0}
ASKED = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"
LONG = "Tell a story."


@pytest.fixture(scope="module")
def mas() -> Iterator[LatentMAS]:
    with LatentMAS("tiny", **FIELDS) as system:
        yield system


def test_the_pieces_are_the_text_of_the_answer_that_follows(mas: LatentMAS) -> None:
    *pieces, answer = mas.stream(ASKED)
    assert isinstance(answer, Answer)
    assert answer.answer_token_ids == mas.ask(ASKED).answer_token_ids
    assert len(pieces) > 3
    assert "".join(map(str, pieces)) == answer.answer


def test_the_same_in_an_event_loop(mas: LatentMAS) -> None:
    async def fetch() -> list[object]:
        return [piece async for piece in mas.astream(ASKED)]

    *pieces, answer = asyncio.run(fetch())
    assert isinstance(answer, Answer)
    assert "".join(map(str, pieces)) == answer.answer == mas.ask(ASKED).answer


def test_leaving_a_stream_ends_its_question(mas: LatentMAS) -> None:
    stream = mas.stream(LONG)
    assert isinstance(next(stream), str)
    stream.close()

    async def leave() -> None:
        pieces = mas.astream(LONG)
        assert isinstance(await anext(pieces), str)
        await pieces.aclose()

    asyncio.run(leave())
    assert mas.ask(ASKED).answer
    assert mas.running_turns() == []


def test_of_several_answers_the_chosen_text_is_one_piece() -> None:
    with LatentMAS("tiny", **{**FIELDS, "temperature": 1.0, "samples": 2, "max_new_tokens": 4}) as mas:
        *pieces, answer = mas.stream(ASKED)
        assert isinstance(answer, Answer)
        assert pieces == [answer.answer]


def test_a_question_without_an_answer_raises() -> None:
    with (
        LatentMAS("tiny", **{**FIELDS, "method": "single"}) as mas,
        pytest.raises(QuestionsFailedError, match="positions"),
    ):
        list(mas.stream("word " * 34_000))
