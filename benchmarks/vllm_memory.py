"""How fast memory is written into vLLM's paged cache on a CPU, beside one memcpy of the same bytes.

The layers are vLLM's own, without a model around them. Each figure is measured in turn with the others.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens, D head dim.
"""

import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.env import prepare_vllm
from latentmas_ray.memory import RopeSpec
from latentmas_ray.memory.buffers import copy_into, empty_bytes
from latentmas_ray.memory.layer_spec import DTYPES
from latentmas_ray.vllm.paged_memory import PagedLayer, PagedSpan, write_memory
from latentmas_ray.vllm.registry import WriteStats
from latentmas_ray.writing.text_engine import MemoryPart, QuestionMemory

# The cache of Qwen3-0.6B and of Qwen3-8B but for the number of layers.
NUM_LAYERS, NUM_HEADS, HEAD_DIM = 28, 8, 128
ROPE = RopeSpec("default", tuple(1e6 ** (-2 * index / HEAD_DIM) for index in range(HEAD_DIM // 2)))
_BLOCK_SIZE = 128


def measure_vllm_memory(megabytes: int, repeats: int) -> None:
    """Print a line for each dtype and kind of memory."""
    prepare_vllm()
    torch.set_num_threads(1)
    print(f"{NUM_LAYERS} layers × {NUM_HEADS} heads × {HEAD_DIM}, {megabytes} MB, one thread, median of {repeats}")
    for dtype in ("bfloat16", "float32"):
        bytes_per_token = NUM_LAYERS * 2 * NUM_HEADS * HEAD_DIM * DTYPES[dtype].itemsize
        num_tokens = megabytes * 10**6 // bytes_per_token
        for name, seconds in _measure(dtype, num_tokens, repeats).items():
            print(f"{dtype:9} {name:28} {num_tokens * bytes_per_token / seconds / 1e9:6.2f} GB/s", flush=True)


def _measure(dtype: str, num_tokens: int, repeats: int) -> dict[str, float]:
    """Median seconds of each way to write."""
    num_blocks = -(-num_tokens // _BLOCK_SIZE)
    layers = [_make_layer(DTYPES[dtype], num_blocks) for _ in range(NUM_LAYERS)]
    shape = (NUM_LAYERS, 2, NUM_HEADS, num_tokens, HEAD_DIM)
    kv_LCHTD = torch.randn(shape, dtype=torch.float32).to(DTYPES[dtype])
    target = empty_bytes(kv_LCHTD.numel() * kv_LCHTD.itemsize, torch.device("cpu")).view(DTYPES[dtype]).view(shape)
    span = PagedSpan(first=0, stop=num_tokens, block_ids=list(range(num_blocks))[::-1], block_size=_BLOCK_SIZE)

    def write(shift: int) -> None:
        part = MemoryPart(kv_LCHTD=kv_LCHTD, first_slot=0, shift=shift)
        memory = QuestionMemory(parts=(part,), num_tokens=num_tokens, next_position=num_tokens)
        write_memory(layers, memory, [ROPE] * NUM_LAYERS, span, WriteStats())

    ways: dict[str, Callable[[], None]] = {
        "memcpy": lambda: copy_into(target, kv_LCHTD),
        "memory of a chain": lambda: write(0),
        "memory of parallel agents": lambda: write(37),  # its keys are rotated
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begin)
    return {name: median(values[1:]) for name, values in seconds.items()}  # the first one touches the pages


def _make_layer(dtype: torch.dtype, num_blocks: int) -> PagedLayer:
    from vllm.v1.attention.backend import AttentionType
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl, _get_attn_isa

    # Without its constructor, which needs a model.
    impl = object.__new__(CPUAttentionBackendImpl)
    impl.attn_type, impl.kv_cache_dtype = AttentionType.DECODER, "auto"
    made: Any = SimpleNamespace(
        impl=impl,
        kv_cache=_zeros(num_blocks, dtype),
        isa=_get_attn_isa(dtype, _BLOCK_SIZE, HEAD_DIM),
        _k_scale_float=1.0,
        _v_scale_float=1.0,
    )
    layer: PagedLayer = made
    return layer


def _zeros(num_blocks: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(num_blocks, NUM_HEADS, _BLOCK_SIZE, 2 * HEAD_DIM, dtype=dtype)
