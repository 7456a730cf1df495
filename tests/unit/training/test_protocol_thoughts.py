"""Thinking agents in packed rows: who sees what, that thoughts are those of one agent alone, and their gradients."""

from dataclasses import replace
from itertools import chain, repeat
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from examples.tiny_model.designs import DESIGNS
from examples.tiny_model.document import Mix
from examples.tiny_model.layouts import TranscriptWriter
from examples.tiny_model.packing import pack
from examples.training.protocol.documents import DocumentWriter, ThinkingDocument, ThinkingMix
from examples.training.protocol.losses import AnswerLosses, aim_loss, answer_losses, guard_loss
from examples.training.protocol.rollout import Realigning, ThoughtNoise, embed, hidden_states, think
from examples.training.protocol.rows import ThoughtRows, join, pack_thinking
from latentmas_ray.models.presets import untrained_model

TOKENIZER = DESIGNS["tiny"].train_tokenizer()
NUM_TOKENS = 420
ALONE, WHOLE = ThinkingMix(alone=1.0, wrong=0.0), ThinkingMix(alone=0.0, wrong=0.0)
WRONG = ThinkingMix(wrong=1.0)


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return untrained_model(TOKENIZER.get_vocab_size(), num_layers=2, hidden_size=64, mlp_size=64)


def document(mix: ThinkingMix, num_thoughts: int = 3, *, parallel: bool = True, seed: int = 1) -> ThinkingDocument:
    writer = DocumentWriter(TOKENIZER, Random(seed), mix)
    return next(writer.documents(num_thoughts, NUM_TOKENS, parallel=parallel))


def packed(mix: ThinkingMix, num_thoughts: int = 3, *, parallel: bool = True, num_rows: int = 2) -> ThoughtRows:
    writer = DocumentWriter(TOKENIZER, Random(3), mix)
    return pack_thinking(
        writer.documents(num_thoughts, NUM_TOKENS, parallel=parallel), num_thoughts, num_rows, NUM_TOKENS
    )


def one_row(given: ThinkingDocument, num_thoughts: int = 3) -> ThoughtRows:
    too_long = replace(given, branches=given.branches * 20)
    return pack_thinking(chain([given], repeat(too_long)), num_thoughts, 1, NUM_TOKENS)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_reader_of_thoughts_alone_sees_them_and_nothing_else_of_the_agents(parallel: bool) -> None:
    given = document(ALONE, parallel=parallel)
    rows = one_row(given)
    size = sum(len(agent.prompt) + 3 for agent in given.agents)
    seen = rows.rows.visible[0, size, :size]  # the first token of the first question
    assert torch.equal(seen, rows.is_thought[0, :size])
    second = len(given.agents[0].prompt) + 3  # the first token of the second agent
    read = rows.rows.visible[0, second, :second]
    assert torch.equal(read, torch.zeros_like(read) if parallel else rows.is_thought[0, :second])
    own = rows.rows.visible[0, second - 1, :second]
    assert own.all(), "a thought sees the prompt of its own agent"


def test_a_reader_of_all_sees_all_and_continues_at_the_next_position() -> None:
    given = document(WHOLE)
    rows = one_row(given)
    size = sum(len(agent.prompt) + 3 for agent in given.agents)
    assert rows.rows.visible[0, size, :size].all()
    assert rows.rows.positions_BT[0, : size + 1].tolist() == list(range(size + 1))
    for branch, start in zip(given.branches, branch_starts(given, size), strict=True):
        assert rows.rows.positions_BT[0, start] == size
        assert not rows.rows.visible[0, start, size:start].any(), "questions do not see each other"
        targets = rows.rows.targets_BT[0, start : start + len(branch)]
        assert targets[targets >= 0].tolist() == branch.answer
        assert (rows.rows.ids_BT[0, start : start + len(branch)]).tolist() == branch.prompt + branch.answer


def branch_starts(given: ThinkingDocument, size: int) -> list[int]:
    return [size + sum(map(len, given.branches[:index])) for index in range(len(given.branches))]


def test_a_wrong_memory_comes_in_pairs_with_and_without_it() -> None:
    given = document(WRONG)
    rows = one_row(given)
    size = sum(len(agent.prompt) + 3 for agent in given.agents)
    starts = branch_starts(given, size)
    for wrong, blind, first, second in zip(
        given.branches[::2], given.branches[1::2], starts[::2], starts[1::2], strict=True
    ):
        assert wrong.answer == blind.answer
        assert (wrong.kind.split()[1], blind.kind.split()[1]) == ("deranged", "none")
        assert rows.rows.visible[0, first, :size].any()
        assert not rows.rows.visible[0, second, :size].any()
        assert (rows.rows.positions_BT[0, first], rows.rows.positions_BT[0, second]) == (size, 0)
        assert rows.groups_BT[0, first] == -rows.groups_BT[0, second] != 0


def test_thoughts_aim_at_the_facts_again_and_again() -> None:
    given = None
    for seed in range(20):
        given = document(replace(WHOLE, chain=0.0), 12, seed=seed)
        assert all(agent.aims for agent in given.agents)
    assert given is not None
    rows = one_row(given, 12)
    aims = rows.aims_BT[0][rows.is_thought[0]].split(12)
    for agent, aimed in zip(given.agents, aims, strict=True):
        assert aimed.tolist() == [agent.aims[index % len(agent.aims)] for index in range(12)]
    assert all({*agent.aims} <= {*agent.prompt} for agent in given.agents)


def alone(model: Any, rule: Realigning, prompt: list[int], before: Tensor, position: int, num: int) -> Tensor:
    """Thoughts [num, E] of an agent whose inputs follow `before`, by a whole forward for each; gradients pass."""
    fed = torch.cat([before, model.get_input_embeddings().weight.detach()[prompt]])
    for _ in range(num):
        places = torch.arange(position, position + len(fed))[None]
        hidden = model.model(inputs_embeds=fed[None], position_ids=places).last_hidden_state[0, -1]
        fed = torch.cat([fed, rule(hidden)[None]])
    return fed[-num:]


@pytest.mark.parametrize("parallel", [True, False])
def test_packed_thoughts_are_those_of_agents_one_by_one(model: Qwen3ForCausalLM, parallel: bool) -> None:
    given = document(WHOLE, 4, parallel=parallel)
    rows, rule = one_row(given, 4), Realigning.of(model)
    found = think(model, rule, rows, rows.rows.visible)[0][rows.is_thought[0]].split(4)
    before, position = torch.zeros(0, 64), 0
    for agent, thoughts in zip(given.agents, found, strict=True):
        with torch.no_grad():
            wanted = alone(model, rule, agent.prompt, before, position, 4)
        torch.testing.assert_close(thoughts, wanted, atol=1e-4, rtol=1e-4)
        if parallel:
            position += len(agent.prompt) + 4
        else:
            prompt = model.get_input_embeddings().weight.detach()[agent.prompt]
            before = torch.cat([before, prompt, thoughts])


def test_passes_with_gradients_compute_the_same_numbers(model: Qwen3ForCausalLM) -> None:
    rows, rule = packed(WHOLE, 4), Realigning.of(model)
    visible = rows.rows.visible
    embedded = think(model, rule, rows, visible)
    with torch.no_grad():
        first, second, third = (hidden_states(model, rule, rows, visible, embedded, depth) for depth in (0, 1, 3))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(first, third, atol=1e-4, rtol=1e-4)


def test_gradients_go_back_as_many_thoughts_as_there_are_passes(model: Qwen3ForCausalLM) -> None:
    """With as many passes as thoughts the gradient is that of a chain of single steps; with fewer it is another."""
    given = document(WHOLE, 3)
    agent = given.agents[0]
    rows, rule = one_row(replace(given, agents=(agent,)), 3), Realigning.of(model)
    visible = rows.rows.visible
    embedded = think(model, rule, rows, visible)
    size = len(agent.prompt)

    def gradient(hidden: Tensor) -> Tensor:
        model.zero_grad()
        (hidden * torch.linspace(-1, 1, 64)).sum().backward()
        found = model.model.layers[0].self_attn.v_proj.weight.grad
        assert found is not None
        return found.clone()

    fed = torch.cat([embedded[0, :size], alone(model, rule, agent.prompt, torch.zeros(0, 64), 0, 3)])
    wanted = gradient(model.model(inputs_embeds=fed[None]).last_hidden_state[0, -1])
    by_depth = [gradient(hidden_states(model, rule, rows, visible, embedded, depth)[0, size + 2]) for depth in range(4)]
    torch.testing.assert_close(by_depth[3], wanted, atol=1e-4, rtol=1e-3)
    errors = [float((one - wanted).norm()) for one in by_depth]
    assert min(errors[:2]) > errors[3]
    model.zero_grad()


def test_rows_of_other_documents_have_no_thoughts(model: Qwen3ForCausalLM) -> None:
    others = pack(TranscriptWriter(TOKENIZER, Random(1)), Mix(soft=1.0), 1, NUM_TOKENS)
    rows = join(packed(WHOLE), others)
    assert len(rows.rows.ids_BT) == 3
    assert not rows.is_thought[2].any()
    embedded = think(model, Realigning.of(model), rows, rows.rows.visible)
    assert torch.equal(embedded[2], embed(model, rows)[2])
    answers = answer_losses(
        model, rows, hidden_states(model, Realigning.of(model), rows, rows.rows.visible, embedded, 0)
    )
    assert (answers.kind_A == -1).any()
    assert (answers.kind_A >= 0).any()


def test_without_thoughts_everything_still_works(model: Qwen3ForCausalLM) -> None:
    rows, rule = packed(WHOLE, 0), Realigning.of(model)
    embedded = think(model, rule, rows, rows.rows.visible)
    hidden = hidden_states(model, rule, rows, rows.rows.visible, embedded, 1)
    assert float(aim_loss(model, rule, rows, hidden)) == 0.0
    assert answer_losses(model, rows, hidden).nll_A.isfinite().all()


def test_the_aim_is_reached_where_the_rule_gives_the_token(model: Qwen3ForCausalLM) -> None:
    rows = packed(WHOLE, 5)
    matrix_EE = torch.eye(64)
    rule = Realigning(matrix_EE, 1.0)
    hidden = torch.randn(*rows.aims_BT.shape, 64, generator=torch.Generator().manual_seed(0))
    far = float(aim_loss(model, rule, rows, hidden))
    has_aim = rows.aims_BT >= 0
    hidden[:, :-1][has_aim[:, 1:]] = 3 * model.get_input_embeddings().weight.detach()[rows.aims_BT[has_aim]]
    assert float(aim_loss(model, rule, rows, hidden)) == pytest.approx(0.0, abs=1e-5)
    assert far > 0.5


def test_the_guard_counts_what_a_wrong_memory_costs_above_the_margin() -> None:
    answers = AnswerLosses(
        nll_A=torch.tensor([0.5, 0.1, 0.2, 0.15, 9.0]),
        num_A=torch.ones(5, dtype=torch.long),
        kind_A=torch.zeros(5, dtype=torch.long),
        group_A=torch.tensor([2, -1, 1, -2, 0]),
        is_right_A=torch.ones(5, dtype=torch.bool),
    )
    # Group 1: 0.2 with the wrong memory, 0.1 without; group 2: 0.5 and 0.15.
    assert float(guard_loss(answers, 0.05)) == pytest.approx(((0.2 - 0.1 - 0.05) + (0.5 - 0.15 - 0.05)) / 2)
    assert float(guard_loss(answers, 0.2)) == pytest.approx((0.5 - 0.15 - 0.2) / 2)
    none = replace(answers, group_A=torch.zeros(5, dtype=torch.long))
    assert float(guard_loss(none, 0.05)) == 0.0


def test_noise_moves_thoughts_and_keeps_their_norm() -> None:
    noise = ThoughtNoise(0.1, 2.0, torch.Generator().manual_seed(0))
    thoughts = torch.nn.functional.normalize(torch.ones(3, 50), dim=-1) * 2
    moved = noise(thoughts)
    torch.testing.assert_close(moved.norm(dim=-1), torch.full((3,), 2.0))
    cosines = torch.cosine_similarity(moved, thoughts, dim=-1)
    assert ((cosines > 0.97) & (cosines < 0.9999)).all()
