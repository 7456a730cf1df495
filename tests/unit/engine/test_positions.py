"""Questions that cannot fit the model's positions are found before the first step, each with its numbers."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.engine.positions import check_positions
from latentmas_ray.engine.turn import Prompt, Sampling, TurnRequest
from latentmas_ray.errors import ContextLengthError, QuestionsTooLongError, TurnError

LIMIT = 100


def check(starts: list[int], prompts: list[int], thinks: Any = "latent", steps: int = 0, closing: int = 0) -> None:
    names = tuple(f"q{index}" for index in range(len(starts)))
    prompt = Prompt(messages=({"role": "user", "content": "x"},))
    work = TurnRequest(
        agent="planner",
        batch=0,
        question_ids=names,
        prompts=(prompt,) * len(names),
        thinks=thinks,
        sampling=Sampling(),
        latent_steps=steps,
    )
    check_positions(work, starts=starts, prompt_lengths=prompts, num_closing=closing, limit=LIMIT, model="small")


@pytest.mark.parametrize(
    ("start", "prompt", "steps", "closing", "line"),
    [
        (0, 90, 11, 0, "90 prompt tokens + 11 latent steps need 101 positions, model small has 100"),
        (0, 90, 10, 1, "90 prompt tokens + 10 latent steps + 1 closing token need 101 positions, model small has 100"),
        (50, 40, 11, 0, "memory up to position 50 + 40 prompt tokens + 11 latent steps need 101 positions"),
        (0, 101, 0, 0, "101 prompt tokens need 101 positions, model small has 100: use a shorter prompt or a model"),
        (99, 1, 1, 0, "memory up to position 99 + 1 prompt token + 1 latent step need 101 positions"),
        (
            0,
            1,
            100_000,
            0,
            "1 prompt token + 100000 latent steps need 100001 positions, model small has 100: use fewer",
        ),
    ],
)
def test_a_latent_agent(start: int, prompt: int, steps: int, closing: int, line: str) -> None:
    with pytest.raises(QuestionsTooLongError) as caught:
        check([start], [prompt], steps=steps, closing=closing)
    assert str(caught.value).startswith(line)
    check([start], [prompt - 1], steps=steps, closing=closing) if steps < LIMIT and prompt > 1 else None


def test_a_text_agent_needs_room_for_one_new_token() -> None:
    check([60], [39], "text")
    with pytest.raises(
        QuestionsTooLongError, match=r"position 60 \+ 40 prompt tokens \+ 1 new token need 101 positions"
    ):
        check([60], [40], "text")


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(1, 120)), min_size=1, max_size=6), st.integers(0, 120))
def test_exactly_the_questions_that_do_not_fit_are_named(sizes: list[tuple[int, int]], steps: int) -> None:
    starts, prompts = map(list, zip(*sizes, strict=True))
    expected = {f"q{index}" for index, (start, prompt) in enumerate(sizes) if start + prompt + steps > LIMIT}
    if not expected:
        check(starts, prompts, steps=steps)
        return
    with pytest.raises(QuestionsTooLongError) as caught:
        check(starts, prompts, steps=steps)
    assert caught.value.agent == "planner"
    assert set(caught.value.reasons) == expected
    assert all(f" has {LIMIT}: use " in reason and "\n" not in reason for reason in caught.value.reasons.values())


def test_the_error_is_one_of_the_turn_and_survives_pickling() -> None:
    error = QuestionsTooLongError("critic", {"a": "too long", "b": "far too long"})
    assert isinstance(error, TurnError)
    assert isinstance(error, ContextLengthError)
    again = pickle.loads(pickle.dumps(error))
    assert (again.agent, again.reasons, str(again)) == ("critic", error.reasons, "too long")
