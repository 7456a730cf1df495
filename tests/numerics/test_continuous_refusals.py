"""What an engine that writes continuously refuses costs the other questions nothing."""

from dataclasses import replace

import pytest
import torch

from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import CacheError, SegmentError
from latentmas_ray.memory import RecomputeInputs
from latentmas_ray.writing.continuous import ContinuousEngine
from latentmas_ray.writing.text_engine import TextRequest
from tests.numerics.families import make_lm

QUESTION = TextRequest(
    key="q", question_id="q", agent="answerer", prompt_ids=(30, 31, 32), sampling=Sampling(max_new_tokens=4)
)


def test_recompute_inputs_are_no_memory_of_this_engine() -> None:
    lm = make_lm("qwen3")
    inputs = RecomputeInputs(torch.tensor([1, 2]), torch.empty(0, lm.spec.hidden_size), (2,))
    with pytest.raises(SegmentError, match="not as recompute inputs"):
        ContinuousEngine(lm, max_running=2).start(replace(QUESTION, inputs=inputs))


def test_a_question_that_is_too_large_alone_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ContinuousEngine(make_lm("qwen3"), max_running=8)

    def too_much(*_: object) -> None:
        raise CacheError("too much")

    with monkeypatch.context() as patch:
        patch.setattr(engine._room, "reserve", too_much)
        with pytest.raises(CacheError):
            engine.start(QUESTION)
    assert engine.max_running == 8
    engine.start(QUESTION)
