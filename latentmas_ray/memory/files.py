"""Segments as safetensors files, for keeping and for looking at with other tools."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentmas_ray.errors import SegmentError, WireError
from latentmas_ray.memory.segment import Recipe, Segment
from latentmas_ray.memory.spec import KVCacheSpec
from latentmas_ray.memory.wire import raw_bytes

VERSION = 1
_KEY = "latentmas_segment"


def save_segment(segment: Segment, path: Path) -> None:
    """Write tensors `kv`, `token_ids` and `latents`, and the rest as metadata. Raises OSError where it cannot."""
    meta = {
        "version": VERSION,
        "spec": segment.spec.to_header(),
        "lengths": list(segment.lengths),
        "turn_starts": list(segment.turn_starts),
        "offsets": list(segment.offsets),
        "recipe_lengths": list(segment.recipe.lengths),
    }
    tensors = {
        "kv": segment.kv_LCHTD.cpu(),
        "token_ids": segment.recipe.token_ids_T.cpu().contiguous(),
        "latents": segment.recipe.latents_NE.cpu().contiguous(),
    }
    text = json.dumps({**meta, "digest": _digest(meta, tensors)})
    try:
        save_file(tensors, path, metadata={_KEY: text})
    except SafetensorError as error:  # what a full disk or a missing folder looks like here
        raise OSError(f"{path}: {error}") from error


def load_segment(path: Path, *, expected: KVCacheSpec | None = None) -> Segment:
    """Read what `save_segment` wrote.

    Raises WireError for a file that is missing, damaged or something else, IncompatibleMemoryError if `expected` is
    given and the memory is of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in ("kv", "token_ids", "latents")} if meta else {}
    except (OSError, SafetensorError, ValueError) as error:
        raise WireError(f"{path}: cannot be read as a segment: {error}") from error
    if not isinstance(meta, dict):
        raise WireError(f"{path}: a safetensors file, but not of a segment")
    if meta.get("version") != VERSION:
        raise WireError(f"{path}: segment version {meta.get('version')!r}; this program reads version {VERSION}")
    if meta.pop("digest", None) != _digest(meta, tensors):
        raise WireError(f"{path}: the digest does not match: the file was altered")
    try:
        segment = _segment(meta, tensors)
    except (KeyError, TypeError, ValueError, OverflowError, SegmentError) as error:
        raise WireError(f"{path}: the segment contradicts itself: {error}") from error
    if expected is not None:
        expected.check_same(segment.spec)
    return segment


def _segment(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Segment:
    lengths, starts, offsets, turns = (
        tuple(int(value) for value in meta[name]) for name in ("lengths", "turn_starts", "offsets", "recipe_lengths")
    )
    recipe = Recipe(tensors["token_ids"].to(torch.int64), tensors["latents"], turns)
    return Segment(KVCacheSpec.from_header(meta["spec"]), tensors["kv"], lengths, starts, offsets, recipe)


def _digest(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = xxhash.xxh3_128(json.dumps(meta, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(raw_bytes(tensor).data)
    return digest.hexdigest()
