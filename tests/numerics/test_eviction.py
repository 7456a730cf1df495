"""An agent that hands over a share of its prompt's positions: which ones, that they are what they were, and that every
way to a reader gives the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentmas_ray.config import CodecName, KeepBy, KeepLayers
from latentmas_ray.engine.eviction import NUM_OBSERVERS, choose
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import KeepRule, TurnRequest
from latentmas_ray.memory import Memory, Segment, join, merge_layout
from latentmas_ray.memory.layer_spec import Ranges
from latentmas_ray.memory.wire import decode_chunk, encode_chunk
from latentmas_ray.models.attention import AttentionMass
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.vllm.paged_memory import check_memory
from latentmas_ray.writing.question_memory import question_memories
from tests.numerics.conftest import MakeEngine
from tests.numerics.families import make_lm
from tests.numerics.test_kept_memory import ask, keep
from tests.numerics.test_recompute import QUESTIONS, TREES, Sent, answer, memory_of, order
from tests.numerics.turns import assert_close, begin, place_chain, prompts_of, think

READER = order("judger", thinks="text").prompts
RULES = [
    KeepRule(share=0.25),
    KeepRule(share=0.5, layers="own"),
    KeepRule(share=0.25, by="thoughts", layers="own"),
    KeepRule(share=0.25, by="reader", readers=(READER, READER[::-1])),
    KeepRule(share=0.3, by="random"),
]
NAMES = [f"{rule.by}-{rule.layers}" for rule in RULES]


@pytest.fixture
def runner(engine_of: MakeEngine) -> TurnRunner:
    return TurnRunner(engine_of("qwen3"))


def segment_of(runner: TurnRunner, work: TurnRequest, read: dict[str, Segment] | None = None) -> Segment:
    chunk, _ = runner.run(work, read or {})
    assert chunk is not None
    return join([chunk])


def tokens_of(ranges: Ranges) -> list[int]:
    return [token for first, stop in ranges for token in range(first, stop)]


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3", "gemma2", "gpt_oss", "cohere2"])
def test_the_mass_is_the_attention_that_transformers_computes(family: str, engine_of: MakeEngine) -> None:
    """Of the last tokens, in two forwards, behind a memory and in rows of different lengths."""
    engine, prompts, more = engine_of(family), prompts_of([20, 33], 1), prompts_of([5, 2], 2)
    before = think(engine, prompts_of([3, 7], 3), 0)
    session = begin(engine, prompts, place_chain({"a": before}))
    mass = AttentionMass([0, session.cache.lengths[1] + 1])  # of the second row only its last token counts
    with session.cache.watched(mass):
        session.feed(more)
    model = make_lm(family).model
    model.set_attn_implementation("eager")
    for row, (first, length) in enumerate([(3, 20), (7, 33)]):
        ids = prompts_of([3, 7], 3)[row] + prompts[row] + more[row]
        with torch.inference_mode():
            layers = model(torch.tensor([ids]), output_attentions=True).attentions
        count = len(more[row]) if row == 0 else 1
        paid = [heads[0, :, -count:, first : first + length] for heads in layers]
        expected = torch.stack([one.square().sum((0, 1)) for one in paid])
        assert_close(mass.of_slots(row, first, length), expected)


def test_the_last_tokens_of_a_prompt_choose(runner: TurnRunner) -> None:
    """A prompt longer than the observers, whose mass is computed here from the model's own attention."""
    text = order("a").prompts[0].messages[0]["content"] * 6
    work = replace(
        order("a", keep=KeepRule(share=0.25)),
        prompts=(replace(order("a").prompts[0], messages=({"role": "user", "content": text},)),),
        question_ids=("q",),
    )
    (prompt,) = (runner.engine.lm.chat.encode(one.messages, one.template, one.suffix) for one in work.prompts)
    model = make_lm("qwen3").model
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        layers = model(torch.tensor([prompt]), output_attentions=True).attentions
    mass = sum(heads[0, :, -NUM_OBSERVERS:].square().sum((0, 1)) for heads in layers)
    assert isinstance(mass, Tensor)
    (expected,) = choose(mass[None], 0.25)
    segment = segment_of(runner, work)
    assert segment.meta.kept is not None
    kept = [token for token in tokens_of(segment.meta.kept[0][0]) if token < len(prompt)]
    assert kept == tokens_of(expected)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_what_is_kept_is_what_it_was(runner: TurnRunner, rule: KeepRule) -> None:
    read = {"a": segment_of(runner, order("a", keep=rule))}
    work = order("b", (AgentMemory("a"),))
    whole, segment = segment_of(runner, work, read), segment_of(runner, replace(work, keep=rule), read)
    assert segment.meta == replace(whole.meta, kept=segment.meta.kept)
    assert segment.meta.kept is not None
    prompts = [count - work.latent_steps for count in whole.lengths]
    for row, (prompt, length) in enumerate(zip(prompts, whole.lengths, strict=True)):
        for layer, kept in enumerate(segment.meta.kept):
            tokens = tokens_of(kept[row])
            assert tokens[0] == 0, "the sink"
            assert tokens[-work.latent_steps :] == list(range(prompt, length)), "the thoughts"
            assert len(tokens) == -int(-rule.share * prompt // 1) + work.latent_steps
            assert torch.equal(segment.kv_of(row)[layer], whole.kv_of(row)[layer][:, :, tokens])
    same = len(set(segment.meta.kept)) == 1
    assert same == (rule.layers == "shared" or rule.by == "random")
    assert segment.meta.num_bytes == segment.kv.layout.num_bytes < whole.meta.num_bytes
    assert segment.meta.num_bytes + sum(segment.meta.evicted_bytes) == whole.meta.num_bytes


@pytest.mark.parametrize("rule", RULES[1:4], ids=NAMES[1:4])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_every_way_to_a_reader_gives_the_same(
    runner: TurnRunner, tree: tuple[AgentMemory, ...], rule: KeepRule
) -> None:
    names = frozenset(name for node in tree for name in node.agents())
    sent = memory_of(runner, tree, frozenset(), "all", early=False, keep=rule)
    expected = answer(runner, tree, sent, frozenset())
    again = memory_of(runner, tree, frozenset(), "all", early=True, keep=rule)
    assert answer(runner, tree, again, frozenset()).output_token_ids == expected.output_token_ids
    inputs = memory_of(runner, tree, names, "all", early=True, keep=rule)
    recomputed = answer(runner, tree, inputs, names)
    assert recomputed.output_token_ids == expected.output_token_ids
    assert recomputed.memory_tokens == expected.memory_tokens
    for name in names:
        assert {chunk.meta.kept for chunk in (*sent[name], *again[name], *inputs[name])} == {sent[name][0].meta.kept}


@pytest.mark.parametrize("by", ["prompt", "thoughts", "reader"])
def test_a_choice_does_not_depend_on_the_questions_beside(runner: TurnRunner, by: KeepBy) -> None:
    rule = KeepRule(share=0.25, by=by, readers=(READER,))
    together = segment_of(runner, order("a", keep=rule)).meta
    for row in range(len(QUESTIONS)):
        work = order("a", keep=replace(rule, readers=((READER[row],),)))
        work = replace(work, question_ids=(QUESTIONS[row],), prompts=(work.prompts[row],))
        assert segment_of(runner, work).meta == together.take([row])


def test_readers_that_choose_leave_no_trace(runner: TurnRunner) -> None:
    """What they were fed is forgotten: thoughts, positions and the rest of the memory are the same."""
    plain = segment_of(runner, order("a"))
    chosen = segment_of(runner, order("a", keep=KeepRule(share=1 - 1e-9, by="reader", readers=(READER,))))
    assert chosen.meta == plain.meta
    assert torch.equal(chosen.kv_LCHTD, plain.kv_LCHTD)
    assert torch.equal(chosen.recompute_inputs.latents_NE, plain.recompute_inputs.latents_NE)


@pytest.mark.parametrize("codec", ["none", "bf16", "int8", "int4"])
@pytest.mark.parametrize("layers", ["shared", "own"])
def test_with_a_codec_and_in_a_file(runner: TurnRunner, codec: CodecName, layers: KeepLayers, tmp_path: Path) -> None:
    tree = TREES["chain"]
    sent = memory_of(runner, tree, frozenset(), "all", early=True, keep=KeepRule(share=0.5, layers=layers))
    travelled = {
        name: [decode_chunk(*encode_chunk(chunk, codec=codec), expected=runner.spec) for chunk in chunks]
        for name, chunks in sent.items()
    }
    expected = answer(runner, tree, travelled, frozenset())
    for name, chunks in travelled.items():
        assert join(chunks).meta == join(sent[name]).meta
    for question in range(len(QUESTIONS)):
        memory = keep(travelled, tree, question)
        assert sum(segment.num_tokens for segment in memory.segments.values()) == sum(
            join(chunks).kv_lengths[question] for chunks in travelled.values()
        )
        memory.save(tmp_path / "memory.safetensors")
        report = ask(runner, Memory.load(tmp_path / "memory.safetensors"), (question,))
        assert report.output_token_ids[0] == expected.output_token_ids[question]


def test_engines_that_write_question_by_question_get_memory_without_gaps(runner: TurnRunner) -> None:
    """In slots one after another, whose prompt begins where it did, in one chunk or in two."""
    tree = TREES["branches"]
    sent = memory_of(runner, tree, frozenset(), "all", early=True, keep=KeepRule(share=0.25))
    merged = merge_layout(tree, {name: chunks[0].meta for name, chunks in sent.items()}, len(QUESTIONS))
    whole = memory_of(runner, tree, frozenset(), "all", early=True)
    positions = merge_layout(tree, {name: chunks[0].meta for name, chunks in whole.items()}, len(QUESTIONS))
    assert merged.next_positions == positions.next_positions
    for number, memory in enumerate(question_memories(runner.spec, merged, Sent(sent).chunks())):
        assert memory is not None
        check_memory(memory, runner.spec)
        assert memory.num_tokens == merged.lengths[number] < positions.lengths[number]


def test_a_trace_of_memory_with_gaps(runner: TurnRunner) -> None:
    """A trace leaves out the right slots of a memory with holes, and changes no answer."""
    tree, traced = TREES["branches"], frozenset(QUESTIONS)
    sent = memory_of(runner, tree, frozenset(), "all", early=False, keep=KeepRule(share=0.25))
    plain = answer(runner, tree, sent, frozenset())
    _, report = runner.run(order("judger", tree, thinks="text", traced=traced), Sent(sent))  # type: ignore[arg-type]
    assert report.output_token_ids == plain.output_token_ids
    assert all(set(trace.effects) == {"a", "d"} for trace in report.traces.values())


def test_thoughts_that_a_guard_drops_leave_the_choice(runner: TurnRunner) -> None:
    session = begin(runner.engine, prompts_of([9, 2, 21], 1))
    session.keep([[((0, 2), (5, 9)), ((0, 1),), ((0, 3),)]] * runner.spec.num_layers)
    session.think(2)
    session.drop_thoughts([0])
    session.withdraw([1])
    segment = session.emit()
    assert segment.meta.kept is not None
    assert segment.meta.kept[0] == (((0, 2), (5, 9)), (), ((0, 3), (21, 23)))
    assert segment.kv_lengths == (6, 0, 5)


@pytest.mark.parametrize(
    ("share", "num_tokens", "expected"),
    [(0.25, 8, 2), (0.25, 9, 3), (0.1, 30, 3), (0.001, 50, 1), (1.0, 7, 7), (0.5, 1, 1)],
)
def test_how_many_are_kept(share: float, num_tokens: int, expected: int) -> None:
    mass_LT = torch.rand(3, num_tokens, generator=torch.Generator().manual_seed(1))
    for kept in choose(mass_LT, share):
        tokens = tokens_of(kept)
        assert len(tokens) == expected
        assert tokens[0] == 0
    assert choose(torch.full((1, num_tokens), torch.nan), share) == choose(torch.zeros(1, num_tokens), share)
    assert choose(torch.zeros(1, num_tokens), share) == (((0, expected),),), "of equal ones the earlier"
