"""Segments as safetensors files, for keeping and for looking at with other tools."""

import json
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from latentmas_ray.errors import SegmentError, WireError
from latentmas_ray.memory.segment import Recipe, Segment
from latentmas_ray.memory.spec import KVCacheSpec
from latentmas_ray.memory.wire import VERSION, raw_bytes


def save_segment(segment: Segment, path: Path) -> None:
    """Write tensors `kv`, `token_ids` and `latents`, and the rest as metadata."""
    meta = {
        "version": VERSION,
        "spec": segment.spec.to_header(),
        "lengths": segment.lengths,
        "turn_starts": segment.turn_starts,
        "offsets": segment.offsets,
        "recipe_lengths": segment.recipe.lengths,
        "kv_digest": xxhash.xxh3_128_hexdigest(raw_bytes(segment.kv_LCHTD).data),
    }
    tensors = {
        "kv": segment.kv_LCHTD.cpu(),
        "token_ids": segment.recipe.token_ids_T.cpu(),
        "latents": segment.recipe.latents_NE.cpu().contiguous(),
    }
    save_file(tensors, path, metadata={"latentmas_segment": json.dumps(meta)})


def load_segment(path: Path, *, expected: KVCacheSpec | None = None) -> Segment:
    """Read what `save_segment` wrote.

    Raises WireError for a file that is missing, damaged or something else, IncompatibleMemoryError if `expected` is
    given and the memory is of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("latentmas_segment", "null"))
            tensors = {name: file.get_tensor(name) for name in ("kv", "token_ids", "latents")} if meta else {}
    except (OSError, SafetensorError, ValueError) as error:
        raise WireError(f"{path}: cannot be read as a segment: {error}") from error
    if not isinstance(meta, dict):
        raise WireError(f"{path}: a safetensors file, but not of a segment")
    if meta.get("version") != VERSION:
        raise WireError(f"{path}: segment version {meta.get('version')!r}; this program reads version {VERSION}")
    try:
        spec = KVCacheSpec.from_header(meta["spec"])
        lengths, starts, offsets, turns = (
            tuple(int(value) for value in meta[name])
            for name in ("lengths", "turn_starts", "offsets", "recipe_lengths")
        )
        recipe = Recipe(tensors["token_ids"].to(torch.int64), tensors["latents"], turns)
        segment = Segment(spec, tensors["kv"], lengths, starts, offsets, recipe)
    except (KeyError, TypeError, ValueError, SegmentError) as error:
        raise WireError(f"{path}: the segment contradicts itself: {error}") from error
    if expected is not None:
        expected.check_same(spec)
    if xxhash.xxh3_128_hexdigest(raw_bytes(segment.kv_LCHTD).data) != meta.get("kv_digest"):
        raise WireError(f"{path}: the digest of the KV does not match: the file was altered")
    return segment
