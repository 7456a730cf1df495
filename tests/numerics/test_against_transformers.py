"""The engine computes what transformers alone computes for each question by itself."""

import pytest
import torch

from latentmas_ray.engine import session as session_module
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.turn import Sampling
from tests.numerics.conftest import MakeEngine
from tests.numerics.plain import Plain
from tests.numerics.turns import assert_close, begin, logits_of, prompts_of

LENGTHS = [7, 1, 30, 12]
NUM_STEPS = 6


def test_a_ragged_prefill_is_each_prompt_alone(engine: Engine) -> None:
    prompts = prompts_of(LENGTHS)
    session = begin(engine, prompts)
    for row, prompt in enumerate(prompts):
        assert_close(logits_of(session)[row], Plain(engine.lm, session.rule).feed(prompt).logits_V)


def test_thinking_is_the_plain_loop(engine: Engine) -> None:
    prompts = prompts_of(LENGTHS)
    session = begin(engine, prompts)
    session.think(NUM_STEPS)
    segment = session.emit()
    for row, prompt in enumerate(prompts):
        plain = Plain(engine.lm, session.rule).feed(prompt).think(NUM_STEPS)
        assert_close(session.last_hidden_BE[row], plain.hidden_E)
        assert_close(segment.kv_of(row), plain.kv())
    assert segment.lengths == tuple(length + NUM_STEPS for length in LENGTHS)


def test_thoughts_change_what_is_said(engine: Engine) -> None:
    """Without this the test above might compare two loops that do nothing."""
    session = begin(engine, prompts_of(LENGTHS))
    before = logits_of(session).clone()
    session.think(1)
    assert ((logits_of(session) - before).abs().amax(dim=-1) > 0.05).all()


def test_greedy_decoding_is_the_plain_loop(engine: Engine) -> None:
    prompts = prompts_of(LENGTHS)
    session = begin(engine, prompts)
    session.think(2)
    answers = session.decode(Sampling(max_new_tokens=8), "judger")
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer == Plain(engine.lm, session.rule).feed(prompt).think(2).decode(8)


def test_a_prompt_in_chunks_is_the_prompt_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of(LENGTHS)
    whole = begin(engine, prompts)
    logits, segment = logits_of(whole).clone(), whole.emit()
    monkeypatch.setattr(session_module, "PREFILL_CHUNK", 4)
    chunked = begin(engine, prompts)
    assert_close(logits_of(chunked), logits)
    assert_close(chunked.emit().kv_LCHTD, segment.kv_LCHTD)


def test_the_vocabulary_is_projected_only_for_sampling(engine: Engine) -> None:
    shapes: list[torch.Size] = []
    head = engine.lm.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    try:
        session = begin(engine, prompts_of(LENGTHS))
        session.think(3)
        assert shapes == []
        session.decode(Sampling(max_new_tokens=1), "judger")
    finally:
        hook.remove()
    assert [shape[0] for shape in shapes] == [len(LENGTHS)]
    assert shapes[0].numel() == len(LENGTHS) * 259


@pytest.mark.parametrize("family", ["qwen3", "llama", "neox", "gemma3"])
def test_bf16_is_near_the_same_model_in_fp32(family: str, engine_of: MakeEngine) -> None:
    prompts = prompts_of(LENGTHS)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        session = begin(engine_of(family, dtype), prompts)
        session.think(2)
        assert session.emit().kv_LCHTD.dtype == dtype
        results.append(logits_of(session).clone())
    assert_close(results[1], results[0], 0.15)


@pytest.mark.parametrize("family", ["qwen3", "qwen3-tied", "neox"])
def test_bf16_is_what_transformers_computes_in_bf16(family: str, engine_of: MakeEngine) -> None:
    engine = engine_of(family, torch.bfloat16)
    prompts = prompts_of(LENGTHS)
    session = begin(engine, prompts)
    for row, prompt in enumerate(prompts):
        assert_close(logits_of(session)[row], Plain(engine.lm, session.rule).feed(prompt).logits_V, 0.05)
