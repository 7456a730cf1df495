"""Thought rules compute their formulas, for each question alone, whatever the batch, the transfer and the ranks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentmas_ray.engine import convergence
from latentmas_ray.engine.diagnostics.logit_lens import LogitLens
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import Prompt, Sampling, TurnRequest
from latentmas_ray.models import LanguageModel
from latentmas_ray.models.thoughts import ThoughtKey, make_rule, thought_keys
from tests.numerics.conftest import MakeLM
from tests.numerics.plain import Plain
from tests.numerics.turns import assert_close, begin, logits_of, place_chain, prompts_of, think

RULES = ("realign", "identity", "soft", "soft:temperature=0.5,top_k=3", "blend", "blend:weight=0.2", "noise")
PROMPTS = prompts_of([9, 2, 21], 1)
KEYS = [ThoughtKey(f"q{row}", "a", 0) for row in range(5)]


def hidden_of(lm: LanguageModel) -> Tensor:
    return torch.randn(5, lm.spec.hidden_size, generator=torch.Generator().manual_seed(3)).to(lm.spec.torch_dtype)


@torch.inference_mode()
def by_hand(lm: LanguageModel, hidden_NE: Tensor, temperature: float, top_k: int) -> Tensor:
    """The weighted mean of embeddings over the whole vocabulary, in fp64."""
    logits_NV = lm.logits(hidden_NE).double() / temperature
    least_N1 = logits_NV.topk(top_k).values[:, -1:]
    shares_NV = torch.softmax(logits_NV.masked_fill(logits_NV < least_N1, -torch.inf), dim=-1)
    return shares_NV @ lm.input_embeddings().double()


@pytest.mark.parametrize("family", ["qwen3", "qwen3-tied", "gemma3", "neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_soft_thoughts_are_means_of_embeddings(family: str, dtype: torch.dtype, lm_of: MakeLM, tmp_path: Path) -> None:
    lm = lm_of(family, dtype)
    hidden_NE = hidden_of(lm)
    rule = make_rule(lm, "soft:temperature=0.7,top_k=9", cache_dir=tmp_path)
    if dtype == torch.float32:  # in bfloat16 several tokens may be the ninth
        expected_NE = by_hand(lm, hidden_NE, 0.7, 9)
        torch.testing.assert_close(rule.map(hidden_NE).double(), expected_NE, rtol=1e-4, atol=1e-5)
    unscaled = make_rule(lm, "soft:temperature=0.7,top_k=9,rescale=no", cache_dir=tmp_path)
    assert torch.equal(unscaled(hidden_NE), rule.map(hidden_NE))
    # More tokens than the vocabulary has are all of it; one is the likeliest.
    every = make_rule(lm, "soft:top_k=1000,rescale=no", cache_dir=tmp_path)
    torch.testing.assert_close(every(hidden_NE).double(), by_hand(lm, hidden_NE, 1.0, 259), rtol=1e-4, atol=1e-5)
    first = make_rule(lm, "soft:top_k=1,rescale=no", cache_dir=tmp_path)
    assert torch.equal(first(hidden_NE), lm.embed(lm.logits(hidden_NE).argmax(dim=-1)).float())


@pytest.mark.parametrize("family", ["qwen3", "qwen3-tied"])
def test_a_blend_keeps_the_hidden_state(family: str, lm_of: MakeLM, tmp_path: Path) -> None:
    lm = lm_of(family)
    hidden_NE = hidden_of(lm)
    said_NE, state_NE = by_hand(lm, hidden_NE, 1.0, 50), hidden_NE.double()
    units = [part / part.norm(dim=-1, keepdim=True) for part in (state_NE, said_NE)]
    for weight in (0.0, 0.3, 1.0):
        rule = make_rule(lm, f"blend:weight={weight}", cache_dir=tmp_path)
        sum_NE = weight * units[0] + (1 - weight) * units[1]
        expected_NE = sum_NE / sum_NE.norm(dim=-1, keepdim=True) * rule.target_norm
        torch.testing.assert_close(rule(hidden_NE).double(), expected_NE, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("thoughts", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thoughts_have_the_mean_norm_and_no_neighbours(
    thoughts: str, dtype: torch.dtype, lm_of: MakeLM, tmp_path: Path
) -> None:
    lm = lm_of("qwen3", dtype)
    rule, hidden_NE = make_rule(lm, thoughts, cache_dir=tmp_path), hidden_of(lm)
    together_NE = rule(hidden_NE, KEYS)
    assert together_NE.dtype == torch.float32
    torch.testing.assert_close(together_NE.norm(dim=-1), torch.full((5,), rule.target_norm))
    for row, key in enumerate(KEYS):
        torch.testing.assert_close(rule(hidden_NE[[row]], [key])[0], together_NE[row], rtol=1e-4, atol=1e-6)
    # Leading dimensions are free.
    torch.testing.assert_close(rule(hidden_NE[:4].view(2, 2, -1), KEYS[:4]).flatten(0, 1), together_NE[:4])


@pytest.mark.parametrize(("thoughts", "unscaled"), [("identity", True), ("realign", False)])
def test_what_is_not_rescaled_is_fed_as_it_is(thoughts: str, unscaled: bool, lm_of: MakeLM, tmp_path: Path) -> None:
    lm = lm_of("qwen3")
    hidden_NE = hidden_of(lm)
    rule = make_rule(lm, f"{thoughts}:rescale=no", cache_dir=tmp_path)
    assert torch.equal(rule(hidden_NE), rule.map(hidden_NE))
    assert torch.equal(rule(hidden_NE), hidden_NE) == unscaled


def test_noise_depends_on_the_names_of_a_thought_alone(lm_of: MakeLM, tmp_path: Path) -> None:
    lm = lm_of("qwen3")
    rule, hidden_NE = make_rule(lm, "noise", cache_dir=tmp_path), hidden_of(lm)
    noise_NE = rule(hidden_NE, KEYS)
    assert torch.equal(rule(-hidden_NE, KEYS), noise_NE)
    assert torch.equal(rule(hidden_NE.flip(0), KEYS[::-1]).flip(0), noise_NE)
    assert torch.equal(
        make_rule(lm_of("qwen3", torch.bfloat16), "noise", cache_dir=tmp_path).map(hidden_NE, KEYS),
        rule.map(hidden_NE, KEYS),
    )
    others = [
        [key._replace(**{field: value}) for key in KEYS]
        for field, value in (("question_id", "q"), ("agent", "b"), ("step", 1))
    ]
    drawn = [noise_NE[0], *(rule(hidden_NE, keys)[0] for keys in others)]
    drawn.append(make_rule(lm, "noise:seed=1", cache_dir=tmp_path)(hidden_NE, KEYS)[0])
    cosines = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert cosines.abs().max() < 0.5
    many_NE = rule.map(torch.zeros(400, lm.spec.hidden_size), thought_keys([f"q{n}" for n in range(20)], "a", 20))
    assert float(many_NE.mean()) == pytest.approx(0, abs=0.02)
    assert float(many_NE.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("thoughts", RULES)
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_a_batch_thinks_what_each_question_thinks_alone(
    thoughts: str, family: str, lm_of: MakeLM, tmp_path: Path
) -> None:
    """And what a plain loop over one question thinks, as far as the rule draws no random numbers."""
    engine = Engine(lm_of(family), thoughts=thoughts, cache_dir=tmp_path)
    session = begin(engine, PROMPTS)
    session.think(3)
    together = session.emit()
    for row, prompt in enumerate(PROMPTS):
        alone = engine.open([f"q{row}"], num_slots=64)
        alone.prefill([prompt])
        alone.think(3)
        segment = alone.emit()
        assert_close(segment.kv_LCHTD, together.kv_of(row))
        assert_close(segment.recompute_inputs.latents_NE, together.recompute_inputs.take([row]).latents_NE)
        if thoughts != "noise":
            assert_close(Plain(engine.lm, engine.rule).feed(prompt).think(3).kv(), segment.kv_LCHTD)


@pytest.mark.parametrize("thoughts", RULES)
@pytest.mark.parametrize("fills", [False, True])
def test_questions_that_stop_early_have_the_thoughts_of_those_that_do_not(
    thoughts: str, fills: bool, lm_of: MakeLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step after another or all at the same time: a thought's key is that of its question and step."""
    monkeypatch.setattr(convergence, "MOST_SWEEPS", 6)  # every sweep makes one more thought exact
    monkeypatch.setattr(convergence, "SETTLED", 2.0)
    engine = Engine(lm_of("qwen3"), thoughts=thoughts, cache_dir=tmp_path)
    full = think(engine, PROMPTS, 6)
    expected = [full.recompute_inputs.take([row]).latents_NE for row in range(len(PROMPTS))]
    session = begin(engine, PROMPTS)
    session.think(6, stop_at=0.05, fills=fills)
    steps, stopped = session.num_steps, session.emit()
    assert min(steps) < 6 or fills
    assert session.num_thoughts == ([6] * len(PROMPTS) if fills else steps)
    if thoughts == "noise":
        assert len(set(steps)) > 1  # rows leave the step one after another
    for row, count in enumerate(session.num_thoughts):
        assert_close(stopped.recompute_inputs.take([row]).latents_NE, expected[row][:count])


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_a_sink_is_the_first_token_of_a_prompt(family: str, lm_of: MakeLM, tmp_path: Path) -> None:
    """With its own position, and the thoughts with theirs; the other tokens' positions stay free."""
    engine = Engine(lm_of(family), cache_dir=tmp_path)
    whole, parts = (think(engine, PROMPTS, 3, hands_over=part) for part in ("all", "latents+sink"))
    assert parts.kv_lengths == (4, 4, 4)
    assert parts.turn_ends == whole.turn_ends
    for row in range(len(PROMPTS)):
        whole_LCHTD = whole.kv_of(row)
        assert torch.equal(parts.kv_of(row), torch.cat([whole_LCHTD[..., :1, :], whole_LCHTD[..., -3:, :]], dim=-2))
    question = prompts_of([5, 3, 8], 3)
    with_sink = logits_of(begin(engine, question, place_chain({"a": parts}))).clone()
    without = logits_of(begin(engine, question, place_chain({"a": think(engine, PROMPTS, 3, hands_over="latents")})))
    assert not torch.allclose(with_sink, without)


@pytest.mark.parametrize("thoughts", ["soft", "noise"])
def test_readers_recompute_the_thoughts_that_were_fed(thoughts: str, lm_of: MakeLM, tmp_path: Path) -> None:
    """From the inputs alone: the reader's own rule plays no part."""
    writer, reader = (Engine(lm_of("qwen3"), thoughts=rule, cache_dir=tmp_path) for rule in (thoughts, "identity"))
    session = begin(writer, PROMPTS)
    session.think(3)
    segment = session.emit()
    kv_LCHTD = segment.kv_LCHTD.clone()
    other = reader.open([f"q{row}" for row in range(len(PROMPTS))], num_slots=64)
    other.feed_recompute_inputs(segment.recompute_inputs)
    assert_close(other.emit_as(segment.meta, segment.recompute_inputs).kv_LCHTD, kv_LCHTD)
    assert place_chain({"a": segment}).next_positions == segment.turn_ends


@pytest.mark.parametrize("thoughts", RULES)
def test_the_tracer_sees_the_thoughts_that_were_fed(thoughts: str, lm_of: MakeLM, tmp_path: Path) -> None:
    runner = TurnRunner(Engine(lm_of("qwen3"), thoughts=thoughts, cache_dir=tmp_path))
    work = TurnRequest(
        agent="a",
        batch=0,
        question_ids=("q0", "q1", "q2"),
        prompts=tuple(Prompt(messages=({"role": "user", "content": text},)) for text in ("short?", "a long one?", "?")),
        thinks="latent",
        sampling=Sampling(),
        latent_steps=3,
    )
    plain, _ = runner.run(work, {})
    assert plain is not None
    kv_LCHTD = plain.kv_LCHTD.clone()
    chunk, result = runner.run(replace(work, traced=frozenset(["q1", "q2"]), guard="warn"), {})
    assert chunk is not None
    assert torch.equal(chunk.kv_LCHTD, kv_LCHTD)
    plane = LogitLens(runner.engine.lm, runner.engine.rule).plane
    for name, row in (("q1", 1), ("q2", 2)):
        fed_NE = chunk.recompute_inputs.take([row]).latents_NE
        seen_N2 = torch.tensor([thought.xy for thought in result.traces[name].thoughts])
        assert_close(seen_N2, plane.place(fed_NE), 1e-3)
