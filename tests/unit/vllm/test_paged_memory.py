"""What is written into vLLM's cache, with layers that keep it as it comes: needs no vLLM."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import KVCacheSpec, RopeSpec, rotate_keys
from latentmas_ray.vllm.paged_memory import PagedSpan, check_memory, write_memory
from latentmas_ray.vllm.registry import MemoryRegistry, WriteStats
from latentmas_ray.writing.text_engine import MemoryPart, QuestionMemory

ROPE = RopeSpec("default", (1.0, 0.1))
NUM_LAYERS, NUM_HEADS, HEAD_DIM = 2, 4, 6  # two of the dimensions are not rotated
SPEC = KVCacheSpec.uniform(
    architecture="Made",
    num_layers=NUM_LAYERS,
    num_kv_heads=NUM_HEADS,
    head_dim=HEAD_DIM,
    hidden_size=8,
    dtype="float32",
    rope=ROPE,
    weights_revision="0",
)


class Layer:
    """A layer whose cache is [slots, 2, H, D]."""

    def __init__(self, num_slots: int) -> None:
        self.kv_cache = torch.zeros(num_slots, 2, NUM_HEADS, HEAD_DIM)
        self.impl = self

    def do_kv_cache_update(
        self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        kv_cache[slot_mapping, 0], kv_cache[slot_mapping, 1] = key, value


def made(num_tokens: int, num_heads: int = NUM_HEADS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_LAYERS, 2, num_heads, num_tokens, HEAD_DIM, generator=generator)


def memory_of(*parts: MemoryPart, num_tokens: int, hole: int = 0) -> QuestionMemory:
    return QuestionMemory(parts=parts, num_tokens=num_tokens, next_position=num_tokens + hole)


@given(
    first=st.integers(0, 9),
    block_size=st.integers(1, 5),
    hole=st.integers(0, 7),
    shift=st.integers(-9, 9),
    seed=st.integers(0, 9),
)
def test_tokens_are_in_their_blocks_and_keys_at_their_distance(
    first: int, block_size: int, hole: int, shift: int, seed: int
) -> None:
    """Two parts, the second in two halves of the heads; a prefix of `first` tokens is in vLLM's cache already."""
    early, late = made(4, seed=seed), made(7, seed=seed + 100)
    memory = memory_of(
        MemoryPart(kv_LCHTD=early, first_slot=0, shift=shift),
        MemoryPart(kv_LCHTD=late[:, :, 2:], first_slot=4, shift=0, first_head=2),
        MemoryPart(kv_LCHTD=late[:, :, :2], first_slot=4, shift=0),
        num_tokens=11,
        hole=hole,
    )
    check_memory(memory, SPEC)
    num_blocks = -(-11 // block_size)
    block_ids = torch.randperm(num_blocks + 3, generator=torch.Generator().manual_seed(seed))[:num_blocks].tolist()
    layers = [Layer((num_blocks + 3) * block_size) for _ in range(NUM_LAYERS)]
    span = PagedSpan(first=first, stop=11, block_ids=block_ids, block_size=block_size)
    write_memory(layers, memory, SPEC.ropes, span, stats := WriteStats())
    slots = [block_ids[token // block_size] * block_size + token % block_size for token in range(11)]
    for number, layer in enumerate(layers):
        keys = torch.cat(
            [rotate_keys(early[number, 0], shift - hole, ROPE), rotate_keys(late[number, 0], -hole, ROPE)], 1
        )
        values = torch.cat([early[number, 1], late[number, 1]], 1)
        for token, slot in enumerate(slots):
            if token < first:
                assert not layer.kv_cache[slot].any()
            else:
                torch.testing.assert_close(layer.kv_cache[slot, 0], keys[:, token])
                torch.testing.assert_close(layer.kv_cache[slot, 1], values[:, token])
    assert stats.num_tokens == 11 - first
    assert stats.written_bytes == (11 - first) * SPEC.bytes_per_token


@pytest.mark.parametrize(("shift", "hole", "staged"), [(0, 0, 0.0), (5, 5, 0.0), (3, 0, 0.5), (0, 2, 0.5)])
def test_only_rotated_keys_are_copied_before_they_are_written(shift: int, hole: int, staged: float) -> None:
    memory = memory_of(MemoryPart(kv_LCHTD=made(8), first_slot=0, shift=shift), num_tokens=8, hole=hole)
    span = PagedSpan(first=0, stop=8, block_ids=[0, 1], block_size=4)
    write_memory([Layer(8), Layer(8)], memory, SPEC.ropes, span, stats := WriteStats())
    assert stats.staged_bytes == staged * stats.written_bytes


def test_the_blocks_of_a_failed_load_are_those_that_it_would_have_filled() -> None:
    span = PagedSpan(first=4, stop=9, block_ids=[7, 3, 5, 1], block_size=4)
    assert list(span.own_blocks) == [3, 5]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (MemoryPart(kv_LCHTD=made(5)[:1], first_slot=0, shift=0), "memory has 1 layers"),
        (MemoryPart(kv_LCHTD=made(5)[..., :4], first_slot=0, shift=0), "of head dim 4, the model 2 × 2 of 6"),
        (
            MemoryPart(kv_LCHTD=made(5).half(), first_slot=0, shift=0),
            r"memory is torch.float16, the model torch.float32",
        ),
        (MemoryPart(kv_LCHTD=made(5), first_slot=1, shift=0), "slot 0 is followed by a part from 1 on"),
        (MemoryPart(kv_LCHTD=made(5), first_slot=0, shift=0, first_head=1), r"heads \[1, 2, 3, 4\] in slots 0 to 5"),
        (MemoryPart(kv_LCHTD=made(4), first_slot=0, shift=0), "memory fills 4 of 5 slots"),
        (MemoryPart(kv_LCHTD=made(5, num_heads=2), first_slot=0, shift=0), r"heads \[0, 1\] in slots 0 to 5"),
    ],
)
def test_memory_that_does_not_fit_is_refused(part: MemoryPart, said: str) -> None:
    with pytest.raises(SegmentError, match=said):
        check_memory(memory_of(part, num_tokens=5), SPEC)


def test_memory_that_comes_twice_is_refused() -> None:
    part = MemoryPart(kv_LCHTD=made(5), first_slot=0, shift=0)
    with pytest.raises(SegmentError, match=r"heads \[0, 1, 2, 3, 0, 1, 2, 3\]"):
        check_memory(memory_of(part, replace(part), num_tokens=5), SPEC)


def test_the_registry_keeps_memories_until_they_are_released() -> None:
    registry = MemoryRegistry()
    memory = memory_of(MemoryPart(kv_LCHTD=made(2), first_slot=0, shift=0), num_tokens=2)
    registry.add("one", memory, ROPE)
    found = registry.get("one")
    assert found is not None
    assert found.memory is memory
    with pytest.raises(AssertionError, match="request one has a memory already"):
        registry.add("one", memory, ROPE)
    registry.release("one")
    registry.release("one")
    assert registry.get("one") is None
    assert len(registry) == 0


def test_the_registry_tells_a_failure_once_and_by_its_first_reason() -> None:
    registry = MemoryRegistry()
    registry.fail("one", "first")
    registry.fail("one", "second")
    assert registry.pop_failures() == {"one": "first"}
    assert registry.pop_failures() == {}
