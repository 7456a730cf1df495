"""vLLM writes what our own engine writes, token by token: for every kind of memory, in one batch of all kinds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest

import pytest

from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import TurnError
from latentmas_ray.writing.text_engine import QuestionMemory
from tests.vllm import inside
from tests.vllm.asked import DAG, Asked, OwnEngine, num_equal
from tests.vllm.child import VllmProcess, Written

NUM_QUESTIONS = 5
CASES = {
    "sequential": {"task": "notes", "topology": "sequential"},
    "hierarchical": {"task": "notes", "topology": "hierarchical"},
    "graph of five agents": {"task": "notes", "topology": DAG},
    "prompt-only": {"task": "notes", "topology": "hierarchical", "memory": "prompt-only"},
    "latent-only": {"task": "notes", "topology": "sequential", "memory": "latent-only"},
    "deranged": {"task": "notes", "topology": "sequential", "memory": "deranged"},
    "none": {"task": "notes", "topology": "sequential", "memory": "none"},
    "single": {"task": "chain", "topology": "single", "method": "single"},
    "text": {"task": "chain", "topology": "sequential", "method": "text"},
    "chain": {"task": "chain", "topology": "sequential", "latent_steps": 10},
    "warm": {"task": "chain", "topology": "hierarchical", "latent_steps": 10, "temperature": 0.8, "top_p": 0.95},
    "hot": {"task": "notes", "topology": "sequential", "temperature": 2.5, "max_new_tokens": 120},
}
WITHOUT_STEPS = {"none", "single", "text"}


@pytest.fixture(scope="module")
def asked(own: OwnEngine) -> dict[str, list[Asked]]:
    cases = {}
    for name, fields in CASES.items():
        more = {} if name in WITHOUT_STEPS or "latent_steps" in fields else {"latent_steps": 40}
        cases[name] = own.ask(name, num_questions=NUM_QUESTIONS, **more, **fields)
    return cases


@pytest.fixture(scope="module")
def written(asked: Mapping[str, list[Asked]], vllm: VllmProcess) -> dict[str, Written]:
    """The texts of all cases, written together: the first question of each case, then the second of each."""
    turns = chain.from_iterable(zip_longest(*asked.values()))
    return vllm.write([one.request for one in turns if one is not None])


@pytest.mark.parametrize("case", CASES)
def test_answers_are_equal(case: str, asked: Mapping[str, list[Asked]], written: Mapping[str, Written]) -> None:
    assert len(asked[case]) >= NUM_QUESTIONS
    assert num_equal(asked[case], written) == len(asked[case])


def test_questions_were_interrupted_and_read_their_memory_again(
    written: Mapping[str, Written], asked: Mapping[str, list[Asked]], vllm: VllmProcess
) -> None:
    """The blocks do not suffice for all texts, so some must make room: their memory is still there when they resume."""
    with_memory = [one for one in chain.from_iterable(asked.values()) if one.request.memory is not None]
    stats = vllm.call(inside.write_stats)
    assert stats.num_loads > len(with_memory)


def test_nothing_is_held_when_all_have_ended(written: Mapping[str, Written], vllm: VllmProcess) -> None:
    assert vllm.call(inside.num_held) == (0, 0)


# How many answers may be the same by chance: thoughts alone say less.
CONTROLS = pytest.mark.parametrize(
    ("case", "num_by_chance"), [("sequential", 0), ("hierarchical", 0), ("latent-only", 3)]
)


@CONTROLS
def test_another_memory_gives_other_answers(
    case: str, num_by_chance: int, asked: Mapping[str, list[Asked]], vllm: VllmProcess
) -> None:
    own = asked[case]
    others = [*own[1:], own[0]]
    swapped = [_with_memory(one, other.request.memory) for one, other in zip(own, others, strict=True)]
    assert num_equal(own, vllm.write([one.request for one in swapped])) <= num_by_chance


@CONTROLS
def test_no_memory_gives_other_answers(
    case: str, num_by_chance: int, asked: Mapping[str, list[Asked]], vllm: VllmProcess
) -> None:
    without = [_with_memory(one, None) for one in asked[case]]
    assert num_equal(asked[case], vllm.write([one.request for one in without])) <= num_by_chance


def test_positions_count_where_agents_hand_over_a_part(asked: Mapping[str, list[Asked]], vllm: VllmProcess) -> None:
    """vLLM's prompt begins right after the memory's tokens. Keys that are not rotated for that give other answers."""
    own = [*asked["latent-only"], *asked["graph of five agents"]]
    memories = [one.request.memory for one in own]
    assert all(memory is not None and memory.next_position > memory.num_tokens for memory in memories)
    wrong = [
        _with_memory(one, memory and replace(memory, next_position=memory.num_tokens))
        for one, memory in zip(own, memories, strict=True)
    ]
    assert num_equal(own, vllm.write([one.request for one in wrong])) < len(own)


@pytest.mark.parametrize("case", ["sequential", "chain"])
def test_inputs_of_a_chain_give_the_same_answers(
    case: str, asked: Mapping[str, list[Asked]], vllm: VllmProcess
) -> None:
    recomputed = [replace(one.request, memory=None, inputs=one.inputs) for one in asked[case]]
    assert all(request.inputs is not None for request in recomputed)
    assert num_equal(asked[case], vllm.write(recomputed)) == len(asked[case])


def test_memory_is_copied_once(asked: Mapping[str, list[Asked]], vllm: VllmProcess) -> None:
    """Every byte is written once. Only keys that must be rotated are computed into another tensor before."""
    for case, share in (("sequential", 0.0), ("graph of five agents", 0.5)):
        own = asked[case]
        before = vllm.call(inside.write_stats)
        for one in own:  # alone: nothing must make room
            assert num_equal([one], vllm.write([one.request])) == 1
        after = vllm.call(inside.write_stats)
        num_bytes = _num_bytes(own)
        assert after.written_bytes - before.written_bytes == num_bytes
        assert after.staged_bytes - before.staged_bytes == share * num_bytes


def test_vllms_own_sampler_draws_other_tokens(asked: Mapping[str, list[Asked]], vllm: VllmProcess) -> None:
    sampling = Sampling(temperature=2.0, max_new_tokens=60)
    hot = [replace(one, request=replace(one.request, sampling=sampling)) for one in asked["hot"]]
    requests = [one.request for one in hot]
    own, vllms = vllm.write(requests), vllm.call(inside.write_with_own_sampler, requests)
    assert {one.error for one in vllms.values()} == {""}
    assert own != vllms
    with pytest.raises(TurnError, match=r"vLLM refuses question notes-0: temperature must be in \[0, 2\], got 2.5"):
        vllm.call(inside.write_with_own_sampler, [asked["hot"][0].request])
    assert vllm.call(inside.num_held) == (0, 0)


def _with_memory(one: Asked, memory: QuestionMemory | None) -> Asked:
    return replace(one, request=replace(one.request, memory=memory))


def _num_bytes(asked: Sequence[Asked]) -> int:
    parts = [part for one in asked if one.request.memory is not None for part in one.request.memory.parts]
    return sum(part.kv_LCHTD.numel() * part.kv_LCHTD.itemsize for part in parts)
