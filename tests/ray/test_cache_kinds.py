"""Memory of latents and of states between actors, over each transport: a run gives what it gives in one process."""

from functools import partial
from pathlib import Path

import pytest

from latentmas_ray.actors import LocalRuntime
from latentmas_ray.config import TransportName
from latentmas_ray.engine.load import load_runner
from latentmas_ray.runs.results import Answer
from latentmas_ray.tasks import load_questions
from latentmas_ray.transport import Loopback, Tcp, Transport
from tests.cases.runtime import runtime_of
from tests.cases.scheduler import agent, topology
from tests.numerics.cache_kinds import make_cache_lm
from tests.ray.actor_cases import drive, use_transport

QUESTIONS = load_questions("sample", 3)
PAIR = topology(agent("first"), agent("last", "first", thinks="text"))
TRANSPORTS: dict[str, TransportName | Transport] = {
    "object_store": "object_store",
    "shared_memory": "shared_memory",
    "tcp": Tcp(60.0, shares_memory=False),  # between actors of one node it would share memory
    "gloo": "gloo",
}


@pytest.mark.parametrize("family", ["deepseek_v3", pytest.param("qwen3_next", marks=pytest.mark.slow)])
def test_every_transport_hands_it_over(cluster: None, tmp_path: Path, family: str) -> None:
    lm = make_cache_lm(family)
    lm.model.save_pretrained(tmp_path)
    lm.chat.tokenizer.save_pretrained(tmp_path)
    load = partial(load_runner, str(tmp_path), dtype="float32", device="cpu", thoughts="realign")
    local = LocalRuntime(load, Loopback())
    expected = drive(local, local.start(), PAIR, QUESTIONS, batch_size=3)
    actors = runtime_of(("first", "last"), load)
    try:
        info = actors.start()
        for name, transport in TRANSPORTS.items():
            use_transport(actors, transport)
            found = drive(actors, info, PAIR, QUESTIONS, batch_size=3)
            for question, answer in found.items():
                assert isinstance(answer, Answer)
                local_answer = expected[question]
                assert isinstance(local_answer, Answer)
                assert answer.answer_token_ids == local_answer.answer_token_ids
                (transfer,) = answer.transfers
                assert transfer.transport == name
                num_tokens = answer.agents["first"].prompt_tokens + answer.agents["first"].latent_steps
                assert transfer.num_bytes == num_tokens * lm.spec.bytes_per_token + lm.spec.state_bytes
    finally:
        actors.close()
