"""What the lens shows is what the model's own matrices give, and looking changes nothing."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from latentmas_ray.engine.diagnostics.guard import measure_thoughts
from latentmas_ray.engine.diagnostics.logit_lens import LogitLens
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import Prompt, Sampling, TurnRequest, TurnResult
from latentmas_ray.memory import Segment, join, merge_layout
from latentmas_ray.memory.kv_source import concatenate_kv
from latentmas_ray.models import LanguageModel
from latentmas_ray.topology.agent import AgentMemory
from tests.numerics.conftest import MakeEngine, MakeLM
from tests.numerics.families import make_lm
from tests.numerics.turns import begin, logits_of

QUESTIONS = ("short?", "a much longer question?", "q?")
NUM_STEPS = 4
CHAIN = (AgentMemory("b", (AgentMemory("a"),)),)
BRANCHES = (AgentMemory("a"), AgentMemory("b"))


def order(agent: str, thinks: str = "latent", *, traced: tuple[str, ...] = (), **changes: Any) -> TurnRequest:
    values: dict[str, Any] = {
        "agent": agent,
        "batch": 0,
        "question_ids": QUESTIONS,
        "prompts": tuple(Prompt(messages=({"role": "user", "content": f"{agent}: {text}"},)) for text in QUESTIONS),
        "thinks": thinks,
        "sampling": Sampling(max_new_tokens=6),
        "latent_steps": NUM_STEPS if thinks == "latent" else 0,
        "traced": frozenset(traced),
        **changes,
    }
    return TurnRequest(**values)


def run_all(
    runner: TurnRunner, reads: tuple[AgentMemory, ...], traced: tuple[str, ...] = (), **changes: Any
) -> tuple[dict[str, Segment], dict[str, TurnResult]]:
    """Two agents think, the third answers."""
    segments: dict[str, Segment] = {}
    reports = {}
    for agent in ("a", "b"):
        own = CHAIN[0].reads if agent == "b" and reads == CHAIN else ()
        chunk, reports[agent] = runner.run(order(agent, traced=traced, reads=own), segments if own else {})
        assert chunk is not None
        segments[agent] = join([chunk])
    _, reports["c"] = runner.run(order("c", "text", traced=traced, reads=reads, **changes), segments)
    return segments, reports


@pytest.fixture
def runner(engine_of: MakeEngine) -> TurnRunner:
    return TurnRunner(engine_of("qwen3"))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("reads", [CHAIN, BRANCHES])
def test_a_trace_changes_no_answer_and_no_memory(
    runner: TurnRunner, reads: tuple[AgentMemory, ...], temperature: float
) -> None:
    sampling = Sampling(max_new_tokens=6, temperature=temperature)
    segments, plain = run_all(runner, reads, sampling=sampling)
    kv = {name: segment.kv_LCHTD.clone() for name, segment in segments.items()}
    traced_segments, traced = run_all(runner, reads, QUESTIONS[:2], sampling=sampling)
    for name, report in traced.items():
        assert report.output_token_ids == plain[name].output_token_ids
        assert report.segment_bytes == plain[name].segment_bytes
        assert list(report.traces) == list(QUESTIONS[:2])
        assert not plain[name].traces
        assert plain[name].trace_seconds == 0 < report.trace_seconds
    for name, segment in traced_segments.items():
        assert torch.equal(segment.kv_LCHTD, kv[name])


def test_a_trace_tells_what_an_agent_read_and_wrote(runner: TurnRunner) -> None:
    _, reports = run_all(runner, CHAIN, QUESTIONS[1:], is_last=True)
    assert reports["a"].traces["q?"].prompt == "<|im_start|>user\na: q?<|im_end|>\n<|im_start|>assistant\n"
    assert {name: report.traces["q?"].reads for name, report in reports.items()} == {
        "a": (),
        "b": ("a",),
        "c": ("a", "b"),
    }
    assert [len(reports[name].traces["q?"].thoughts) for name in "abc"] == [NUM_STEPS, NUM_STEPS, 0]
    assert [reports[name].traces["q?"].text for name in "ab"] == [None, None]
    assert reports["c"].traces["q?"].text == reports["c"].texts[2]
    assert reports["a"].embeddings is None
    assert reports["b"].embeddings is None
    assert reports["c"].embeddings is not None


@pytest.fixture
def projections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many hidden states each call of the vocabulary projection was given."""
    counts: list[int] = []
    real = LanguageModel.logits

    def logits(self: LanguageModel, hidden_BE: Tensor) -> Tensor:
        counts.append(len(hidden_BE))
        return real(self, hidden_BE)

    monkeypatch.setattr(LanguageModel, "logits", logits)
    return counts


def test_thinking_projects_nothing_unless_it_is_traced(runner: TurnRunner, projections: list[int]) -> None:
    runner.run(order("a"), {})
    assert projections == []
    runner.run(order("a", traced=QUESTIONS[:2]), {})
    assert projections == [2 * NUM_STEPS]


def test_no_effect_takes_the_logits_of_many_places_at_once(
    runner: TurnRunner, projections: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits of one place are as many numbers as the vocabulary has tokens."""
    segments, whole = run_all(runner, CHAIN, QUESTIONS)
    monkeypatch.setattr("latentmas_ray.engine.diagnostics.ablation._PLACES_CHUNK", 2)
    projections.clear()
    reads = {"traced": frozenset(QUESTIONS), "reads": CHAIN}
    _, report = runner.run(order("c", "text", **reads), segments)
    assert max(projections) == len(QUESTIONS)  # decoding a step
    for name in QUESTIONS:
        assert report.traces[name].effects == pytest.approx(whole["c"].traces[name].effects, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("family", ["qwen3", "qwen3-tied", "gemma3", "neox"])
@pytest.mark.parametrize("chunk", [7, 10_000])
def test_thoughts_are_seen_as_the_matrices_show_them(
    family: str, chunk: int, engine_of: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentmas_ray.engine.diagnostics.logit_lens._VOCABULARY_CHUNK", chunk)
    monkeypatch.setattr("latentmas_ray.engine.diagnostics.logit_lens._THOUGHT_CHUNK", 3)
    engine = engine_of(family)
    lm, realign = engine.lm, engine.rule
    hidden_NE = torch.randn(5, lm.spec.hidden_size, generator=torch.Generator().manual_seed(3))
    inputs_VE = lm.input_embeddings().detach()
    mapped_NE = hidden_NE if realign.matrix_EE is None else hidden_NE @ realign.matrix_EE
    with torch.inference_mode():
        shares_NV = torch.softmax(lm.logits(hidden_NE).double(), dim=-1)
    cosines_NV = torch.nn.functional.cosine_similarity(mapped_NE[:, None], inputs_VE[None], dim=-1)
    centred_VE = inputs_VE.double() - inputs_VE.double().mean(dim=0)
    main_E2 = torch.linalg.svd(centred_VE, full_matrices=False).Vh[:2].T
    for row, thought in enumerate(LogitLens(lm, realign).inspect(hidden_NE)):
        top = shares_NV[row].topk(5)
        assert [token for token, _ in thought.tokens] == [lm.chat.show([token]) for token in top.indices.tolist()]
        assert [share for _, share in thought.tokens] == pytest.approx(top.values.tolist(), rel=1e-3)
        assert thought.entropy == pytest.approx(float(torch.special.entr(shares_NV[row]).sum()), rel=1e-4)
        assert thought.norm == pytest.approx(float(mapped_NE[row].norm() / inputs_VE.norm(dim=-1).mean()), rel=1e-4)
        assert thought.distance == pytest.approx(1 - float(cosines_NV[row].max()), abs=1e-5)
        assert thought.nearest == lm.chat.show([int(cosines_NV[row].argmax())])
        merge_layout = (realign(hidden_NE[row : row + 1]).double() - inputs_VE.double().mean(dim=0)) @ main_E2
        assert [abs(value) for value in thought.xy] == pytest.approx(merge_layout.abs().detach()[0].tolist(), abs=1e-3)


def test_the_plane_is_the_same_every_time(engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    first, second = (LogitLens(engine.lm, engine.rule).embedding_map for _ in range(2))
    assert first == second
    assert len(first.tokens) == 259
    assert 1 > first.explained[0] >= first.explained[1] > 0


def test_a_thought_that_is_not_finite_shows_nothing(engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    hidden_NE = torch.randn(3, engine.lm.spec.hidden_size)
    hidden_NE[1, 0] = torch.nan
    first, broken, last = LogitLens(engine.lm, engine.rule).inspect(hidden_NE)
    assert broken.tokens == ()
    assert (broken.norm, broken.entropy, broken.xy) == (0.0, 0.0, (0.0, 0.0))
    assert [thought.is_finite for thought in (first, broken, last)] == [True, False, True]
    assert first.tokens
    assert last.tokens


def test_a_thought_that_says_nothing_that_can_be_told_is_still_a_row_of_json(engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    engine.lm = make_lm("qwen3")
    engine.lm.model.get_output_embeddings().weight.data[7] = torch.inf
    lens, hidden_NE = LogitLens(engine.lm, engine.rule), torch.randn(1, engine.lm.spec.hidden_size)
    (thought,) = lens.inspect(hidden_NE)
    assert (thought.tokens, thought.entropy) == ((), 0.0)
    assert thought.norm > 0
    assert thought.is_finite
    ((reading,),) = measure_thoughts(lens, hidden_NE[None], thoughts=[[thought]])
    assert reading.entropy is None  # not 0, which would look like a jump of it
    json.dumps(asdict(thought), allow_nan=False)


def test_embeddings_that_are_not_finite_are_near_to_nothing(lm_of: MakeLM, engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    engine.lm = make_lm("qwen3")
    engine.lm.model.get_input_embeddings().weight.data[7] = torch.nan
    lens = LogitLens(engine.lm, engine.rule)
    (thought,) = lens.inspect(torch.randn(1, engine.lm.spec.hidden_size))
    assert 0 < thought.distance < 1
    assert len(lens.embedding_map.tokens) == 258


def emptied(segment: Segment) -> Segment:
    """The same turn, of which nothing was kept."""
    nothing = (0,) * segment.num_questions
    meta = replace(segment.meta, lengths=nothing)
    return Segment(meta, concatenate_kv(meta.layout(), []), segment.recompute_inputs)


@pytest.mark.parametrize("reads", [CHAIN, BRANCHES])
@pytest.mark.parametrize("left_out", ["a", "b"])
def test_an_effect_is_what_the_reader_says_without_the_segment(
    runner: TurnRunner, reads: tuple[AgentMemory, ...], left_out: str
) -> None:
    segments, reports = run_all(runner, reads, QUESTIONS)
    # A segment of which nothing was kept leaves all others where they are.
    without = {**segments, left_out: emptied(segments[left_out])}
    ids = reports["c"].output_token_ids
    moved = [
        max(kl)
        for kl in zip(*(divergences(runner, reads, segments, without, ids, step) for step in range(6)), strict=True)
    ]
    for row, name in enumerate(QUESTIONS):
        assert reports["c"].traces[name].effects[left_out] == pytest.approx(moved[row], rel=1e-2, abs=1e-6)


def divergences(
    runner: TurnRunner,
    reads: tuple[AgentMemory, ...],
    whole: dict[str, Segment],
    part: dict[str, Segment],
    ids: tuple[tuple[int, ...], ...],
    step: int,
) -> list[float]:
    """How far the distribution of token `step` moves, from whole to part of the memory."""
    both = []
    prompts = [runner.engine.lm.chat.encode(one.messages, {}, "") for one in order("c").prompts]
    for segments in (whole, part):
        session = begin(runner.engine, prompts, merge_layout(reads, segments, 3))
        if step:
            session.feed([row[:step] for row in ids])
        both.append(torch.log_softmax(logits_of(session).double(), dim=-1))
    p_BV, q_BV = both
    kl = (p_BV.exp() * (p_BV - q_BV)).sum(dim=-1)
    return [float(value) for value in kl]
