"""A model object of the user's own on actors: sent once, and it answers as it does in this process."""

from functools import partial
from typing import Any

import pytest
import torch

from latentmas_ray.actors import LocalRuntime
from latentmas_ray.engine.load import load_runner
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import ModelError
from latentmas_ray.models.given import GivenModel
from latentmas_ray.models.presets import tiny_model, tiny_tokenizer
from latentmas_ray.runs.results import Answer
from latentmas_ray.tasks import load_questions
from latentmas_ray.topology import apply_method, load_topology
from latentmas_ray.transport import Loopback
from tests.ray.actor_cases import actors_of, drive, timeless


@pytest.mark.slow  # the sent model is compared in `tests/numerics/test_given_model.py`
def test_all_actors_share_what_was_sent_once(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    topology, questions = apply_method(load_topology("single"), "single"), load_questions("sample", 4)
    given = GivenModel(tiny_model(torch.float32), tiny_tokenizer())
    make_runner = partial(load_runner, given, dtype="auto", device="cpu", thoughts="realign")
    sampling = Sampling(temperature=0.8, max_new_tokens=6)
    local = LocalRuntime(make_runner, Loopback())
    here = drive(local, local.start(), topology, questions, sampling=sampling)
    num_sent = []
    pack: Any = GivenModel.__reduce__
    monkeypatch.setattr(GivenModel, "__reduce__", lambda model: num_sent.append(model) or pack(model))
    with actors_of(topology, make_runner, replicas=2) as (runtime, info):
        there = drive(runtime, info, topology, questions, sampling=sampling, replicas=2)
    assert num_sent == [given]
    rows = [
        {name: timeless(result.to_row()) for name, result in results.items() if isinstance(result, Answer)}
        for results in (here, there)
    ]
    assert rows[0] == rows[1]
    assert rows[0].keys() == {question.id for question in questions}


def test_what_cannot_be_sent_is_told_in_one_line(cluster: None) -> None:
    model = tiny_model(torch.float32)
    model.generator_of_something = (number for number in range(3))  # type: ignore[assignment]
    given = GivenModel(model, tiny_tokenizer())
    make_runner = partial(load_runner, given, dtype="auto", device="cpu", thoughts="realign")
    with pytest.raises(ModelError, match="send") as caught, actors_of(["one"], make_runner):
        pass
    assert len(str(caught.value).splitlines()) == 1
