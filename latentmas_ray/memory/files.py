"""A memory as one safetensors file, which other tools can read too.

For every agent it holds the tensors `AGENT.token_ids` and `AGENT.latents` (its recompute inputs) and, if the memory has
its KV, `AGENT.kv`: [L, 2, H, T, D], or bytes in the order of `KVLayout` if the layers differ. Everything else is JSON
in the file's metadata. The metadata begins with the version and a digest of the whole file at a fixed offset, so that
damage is detected before any other field is used:

    u64 length of the header | {"__metadata__":{"latentmas_memory":"3","digest":"32 hex digits", … | tensors

The digest is the xxh3 of the file with 32 zeros in its place.
"""

import errno
import json
import os
import re
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latentmas_ray.errors import LatentMASError, MemoryInputError, SegmentError
from latentmas_ray.memory.kv_source import InMemoryKV, KVLayout, KVSource
from latentmas_ray.memory.layer_spec import kept_from_header, kept_to_header
from latentmas_ray.memory.memory_segment import MemorySegment
from latentmas_ray.memory.segment import RecomputeInputs, SegmentMeta
from latentmas_ray.memory.spec import KVCacheSpec
from latentmas_ray.memory.wire import raw_bytes
from latentmas_ray.memory.working_memory import Memory
from latentmas_ray.paths import replacement_of
from latentmas_ray.topology.agent import AgentMemory

VERSION = 3
_READ_VERSIONS = (1, 2, VERSION)  # version 1 has specs of models whose layers are all alike, and no kept tokens; 2 no
# states
NOTICE = (
    "This file holds working memory of LLM agents: the prompts that they were given, and what they thought about them. "
    "Anyone who has the file can read both."
)
_DTYPE_NAMES = {
    torch.uint8: "U8",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}
_MAX_HEADER_BYTES = 100_000_000  # what safetensors reads
_NO_DIGEST = "0" * 32
_BEGIN = re.compile(rb'(\{"__metadata__":\{"latentmas_memory":"(\d{1,9})","digest":")([0-9a-f]{32})"')
_HEADER_LENGTH = struct.Struct("<Q")
_BLOCK_BYTES = 4 * 2**20
_MAX_COUNT = 2**31  # of tokens and positions


def save_memory(memory: Memory, path: Path) -> None:
    """See `Memory.save`."""
    tensors = _tensors_of(memory)
    header = _header(memory, tensors, _NO_DIGEST)
    if len(header) > _MAX_HEADER_BYTES:
        raise SegmentError(f"the texts of a memory may take {_MAX_HEADER_BYTES} bytes, not {len(header)}")
    digest = xxhash.xxh3_128(header)
    for tensor in tensors.values():
        digest.update(raw_bytes(tensor).data)
    header = _header(memory, tensors, digest.hexdigest())
    try:
        if not path.name or "\0" in path.name:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        with replacement_of(path, ".memory-{}.new", mode=0o600) as file:
            file.write(header)
            for tensor in tensors.values():
                file.write(raw_bytes(tensor).data)
    except OSError as error:
        # The path that the caller knows; the operation may have failed on the temporary file.
        raise OSError(error.errno, error.strerror, str(path)) from error


def load_memory(path: Path) -> Memory:
    """See `Memory.load`."""
    try:
        _check_whole(path)
        with safe_open(path, framework="pt") as file:
            meta = json.loads(file.metadata()["memory"])
            names = list(file.keys())
            memory = _memory(meta, {name: file.get_tensor(name).clone() for name in names})
    except MemoryInputError:
        raise
    except OSError as error:
        raise MemoryInputError("memory file", str(path), _cannot_read(error)) from error
    except (LatentMASError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        # RuntimeError: from torch for wrong shapes, from Python for JSON that is nested too deeply.
        raise MemoryInputError("memory file", str(path), f"the file contradicts itself: {error}") from error
    return memory


def _tensors_of(memory: Memory) -> dict[str, Tensor]:
    """The tensors by their names in the file; the widest numbers come first, so that all are aligned."""
    segments = memory.segments.items()
    return {
        **{f"{agent}.token_ids": segment.inputs.token_ids_T.contiguous() for agent, segment in segments},
        **{f"{agent}.latents": segment.inputs.latents_NE.contiguous() for agent, segment in segments},
        **{f"{agent}.kv": _kv_tensor(segment.kv) for agent, segment in segments if segment.kv is not None},
    }


def _kv_tensor(kv: KVSource) -> Tensor:
    return kv.tensor() if kv.layout.is_uniform else kv.buffer()


def _read_kv(layout: KVLayout, tensor: Tensor) -> InMemoryKV:
    return InMemoryKV.of(layout.spec, layout.lengths, tensor) if layout.is_uniform else InMemoryKV(layout, tensor)


def _header(memory: Memory, tensors: Mapping[str, Tensor], digest: str) -> bytes:
    """Everything before the first tensor: the length of the JSON, and the JSON, padded to a multiple of 8 bytes."""
    metadata = {
        "latentmas_memory": str(VERSION),
        "digest": digest,
        "notice": NOTICE,
        "memory": json.dumps(_meta(memory)),
    }
    entries: dict[str, Any] = {"__metadata__": metadata}
    first = 0
    for name, tensor in tensors.items():
        stop = first + tensor.nbytes
        entries[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [first, stop],
        }
        first = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _HEADER_LENGTH.pack(len(text)) + text


def _meta(memory: Memory) -> dict[str, Any]:
    """Everything that is not a tensor. Each agent comes after the agents that it read."""
    return {
        "model": memory.model,
        "question": memory.question,
        "has_kv": memory.has_kv,
        "spec": None if memory.spec is None else memory.spec.to_header(),
        "reads": [root.agent for root in memory.reads],
        "agents": {
            name: {
                "reads": [read.agent for read in node.reads],
                "num_tokens": memory.segments[name].meta.lengths[0],
                "turn_start": memory.segments[name].meta.turn_starts[0],
                "offset": memory.segments[name].meta.offsets[0],
                "turn_length": memory.segments[name].meta.turn_lengths[0],
                "kept": kept_to_header(memory.segments[name].meta.kept),
            }
            for name, node in memory.tree.items()
        },
        "texts": dict(memory.texts),
    }


def _check_whole(path: Path) -> None:
    """Check version and digest. Raises MemoryInputError, OSError."""
    # Without O_NONBLOCK, opening a pipe would wait for a writer.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise MemoryInputError(
                "memory file", str(path), "it is not a regular file; give one that Memory.save has written"
            )
        start = file.read(_HEADER_LENGTH.size + 256)
        begin = _BEGIN.match(start, _HEADER_LENGTH.size)
        if begin is None:
            is_other = start[_HEADER_LENGTH.size :].startswith(b"{")
            kind = "it is a safetensors file, but not of working memory" if is_other else "it is not a safetensors file"
            raise MemoryInputError("memory file", str(path), f"{kind}; give one that Memory.save has written")
        if (version := int(begin[2])) not in _READ_VERSIONS:
            known = f"{', '.join(map(str, _READ_VERSIONS[:-1]))} and {VERSION}"
            expected = f"it has version {version}, and this program reads versions {known}"
            raise MemoryInputError("memory file", str(path), expected)
        digest = xxhash.xxh3_128(start[: begin.end(1)] + _NO_DIGEST.encode() + start[begin.end(3) :])
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != begin[3].decode():
        raise MemoryInputError("memory file", str(path), "it was altered or cut short: its digest does not match")


def _memory(meta: Mapping[str, Any], tensors: dict[str, Tensor]) -> Memory:
    """Build the memory from a file's contents. Raises SegmentError, and Python's own errors for wrong types."""
    tree: dict[str, AgentMemory] = {}
    segments: dict[str, MemorySegment] = {}
    spec = None if meta["spec"] is None else KVCacheSpec.from_header(meta["spec"])
    for name, agent in _typed(meta["agents"], dict).items():
        if spec is None:
            raise SegmentError("it holds memory but does not name its model")
        tree[name] = AgentMemory(name, tuple(tree[read] for read in _texts(agent["reads"])))
        length, start, offset, turn = (
            (_count(agent[key]),) for key in ("num_tokens", "turn_start", "offset", "turn_length")
        )
        own = SegmentMeta(spec, length, start, offset, turn, kept_from_header(agent.get("kept"), spec.num_layers))
        inputs = RecomputeInputs(tensors.pop(f"{name}.token_ids"), tensors.pop(f"{name}.latents"), own.turn_lengths)
        kv = _read_kv(own.layout(), tensors.pop(f"{name}.kv")) if _typed(meta["has_kv"], bool) else None
        segments[name] = MemorySegment(own, inputs, kv)
    if tensors:
        raise SegmentError(f"it holds {sorted(tensors)[0]}, which belongs to no agent")
    _texts([*_typed(meta["texts"], dict), *meta["texts"].values()])
    return Memory(
        model=_typed(meta["model"], str),
        question=_typed(meta["question"], str),
        reads=tuple(tree[root] for root in _texts(meta["reads"])),
        segments=segments,
        texts=meta["texts"],
    )


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _texts(values: Any) -> list[str]:
    return [_typed(value, str) for value in _typed(values, list)]


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX_COUNT:
        raise ValueError(f"{value!r} is not a number of tokens")
    return value


def _cannot_read(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file; give one that Memory.save has written"
    return f"the file cannot be read: {error.strerror or error}"
