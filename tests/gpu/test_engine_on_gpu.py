"""The engine on a CUDA device: the same numbers as on the CPU, and memory that moves between the two."""

from pathlib import Path

import pytest
import torch

from latentmas_ray.actors.execute_turn import execute_turn
from latentmas_ray.actors.receiver import IncomingSegment
from latentmas_ray.engine.load import load_runner
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import Prompt, Sampling, TurnRequest, TurnResult
from latentmas_ray.memory import Segment
from latentmas_ray.models import load_model
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.transport import ObjectStore

TEXTS = ("One plus one?", "A much longer question, so that the rows of this batch are ragged.", "Why?")
STEPS = 6


def work(agent: str, *, reads: tuple[AgentMemory, ...] = (), answers: bool = False) -> TurnRequest:
    return TurnRequest(
        agent=agent,
        batch=0,
        question_ids=tuple(f"q{index}" for index in range(len(TEXTS))),
        prompts=tuple(Prompt(messages=({"role": "user", "content": text},)) for text in TEXTS),
        thinks="text" if answers else "latent",
        sampling=Sampling(max_new_tokens=12),
        latent_steps=STEPS,
        reads=reads,
    )


@pytest.fixture(scope="module")
def runners() -> tuple[TurnRunner, TurnRunner]:
    """The same model on the CPU and on the GPU, without tf32, whose products are no fp32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    cpu, gpu = (load_runner("tiny", dtype="float32", device=device, thoughts="realign") for device in ("cpu", "cuda"))
    return cpu, gpu


def chain(writer: TurnRunner, reader: TurnRunner) -> tuple[Segment, TurnResult]:
    """A latent agent on one runner, an answering agent that reads it on another, through the object store's form."""
    store = ObjectStore()
    chunk, _ = execute_turn(writer, store, work("thinker"), [])
    assert chunk is not None
    answering = work("answerer", reads=(AgentMemory("thinker"),), answers=True)
    _, report = execute_turn(reader, store, answering, [IncomingSegment("thinker", chunk)])
    return store.unpack(chunk.payload, expected=writer.spec), report


def test_memory_and_answers_are_those_of_the_cpu(runners: tuple[TurnRunner, TurnRunner]) -> None:
    cpu, gpu = runners
    expected_memory, expected = chain(cpu, cpu)
    got_memory, got = chain(gpu, gpu)
    torch.testing.assert_close(got_memory.kv_LCHTD, expected_memory.kv_LCHTD, atol=1e-3, rtol=0)
    assert got.output_token_ids == expected.output_token_ids


def test_memory_moves_between_devices(runners: tuple[TurnRunner, TurnRunner]) -> None:
    cpu, gpu = runners
    expected = chain(cpu, cpu)[1].output_token_ids
    assert chain(cpu, gpu)[1].output_token_ids == expected
    assert chain(gpu, cpu)[1].output_token_ids == expected


def test_bfloat16_runs_and_hands_over(runners: tuple[TurnRunner, TurnRunner]) -> None:
    runner = load_runner("tiny", dtype="bfloat16", device="cuda", thoughts="realign")
    memory, report = chain(runner, runner)
    assert memory.kv_LCHTD.dtype == torch.bfloat16
    assert bool(memory.kv_LCHTD.isfinite().all())
    assert all(report.output_token_ids)


def test_a_saved_model_that_fits_lies_on_one_gpu(tmp_path: Path) -> None:
    tiny = load_model("tiny", device="cpu")
    tiny.model.save_pretrained(tmp_path)
    tiny.chat.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device="cuda")
    assert set(loaded.layer_devices) == {torch.device("cuda:0")}
    assert loaded.spec == tiny.spec
