"""What `latentmas doctor --model` says: one `Check` for each thing that a run may need, and JSON."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from latentmas_ray.cli.checks import Check, Mark
from latentmas_ray.units import format_bytes
from latentmas_ray.vllm.families import vllm_obstacle, vllm_prospect

if TYPE_CHECKING:
    from latentmas_ray.models.abilities import Abilities


def model_checks(found: "Abilities") -> Iterator[Check]:
    """Yield the lines about one model, in the order in which a user needs them."""
    if found.spec is None:
        yield Check(Mark.FAIL, "model", f"{found.architecture} cannot collaborate: {found.refusal}")
        return
    spec = found.spec
    parts = [f"{spec.num_layers} layers"]
    parts += [f"{found.num_experts} experts"] if found.num_experts else []
    yield Check(Mark.OK, "model", f"{found.architecture}, {', '.join(parts)}")
    yield Check(Mark.OK, "chains", "an agent reads exactly what the agents before it were fed")
    if found.no_merge:
        yield Check(Mark.WARN, "merges", f"parallel branches cannot be merged: {found.no_merge}")
    else:
        yield Check(Mark.OK, "merges", "parallel branches are merged exactly, their keys moved by RoPE")
    yield Check(Mark.OK, "cache", f"{cache_kind(found)}, {spec.dtype}")
    yield Check(Mark.OK, "KV per token", f"{format_bytes(spec.bytes_per_token)} ({spec.bytes_per_token:,} bytes)")
    yield Check(Mark.OK, "positions", f"{found.max_positions:,}" if found.max_positions else "no limit is configured")
    yield Check(Mark.OK, "window", _windows(found))
    if found.no_ranks:
        yield Check(Mark.WARN, "tp", f"1 alone: {found.no_ranks}")
    else:
        yield Check(Mark.OK, "tp", ", ".join(map(str, found.ranks)))
    obstacle = vllm_obstacle(spec, has_windows=bool(found.windows))
    prospect = vllm_prospect(found.architecture) if obstacle is None else f"not with vLLM: {obstacle}"
    yield Check(Mark.WARN if obstacle else Mark.OK, "vLLM", prospect)
    if found.sees_images:
        yield Check(Mark.WARN, "images", "not read: its text decoder answers questions of text alone")
    if not found.has_template:
        yield Check(Mark.WARN, "chat template", "none, as base models have: prompts are given as plain paragraphs")


def cache_kind(found: "Abilities") -> str:
    """Return what a layer caches, each kind with its number of layers."""
    assert found.spec is not None
    counts: dict[str, int] = {}
    for layer in found.spec.layers:
        counts[str(layer)] = counts.get(str(layer), 0) + 1
    return "; ".join(f"{kind} in {count} layers" for kind, count in counts.items())


def abilities_json(found: "Abilities") -> dict[str, Any]:
    """Return the same for scripts."""
    known: dict[str, Any] = {"model": found.model, "architecture": found.architecture, "works": found.spec is not None}
    if found.spec is None:
        return {**known, "reason": found.refusal}
    obstacle = vllm_obstacle(found.spec, has_windows=bool(found.windows))
    return {
        **known,
        "chains": True,
        "merges": not found.no_merge,
        "no_merge": found.no_merge,
        "num_layers": found.spec.num_layers,
        "num_experts": found.num_experts,
        "cache": cache_kind(found),
        "dtype": found.spec.dtype,
        "kv_bytes_per_token": found.spec.bytes_per_token,
        "max_positions": found.max_positions,
        "windows": [{"tokens": tokens, "layers": layers} for tokens, layers in found.windows],
        "tp": list(found.ranks),
        "no_tp": found.no_ranks,
        "vllm": obstacle is None,
        "vllm_note": obstacle or vllm_prospect(found.architecture),
        "reads_images": False,
        "has_chat_template": found.has_template,
    }


def _windows(found: "Abilities") -> str:
    if not found.windows:
        return "none: every layer sees everything before it"
    assert found.spec is not None
    return "; ".join(
        f"{tokens:,} tokens in {layers} of {found.spec.num_layers} layers" for tokens, layers in found.windows
    )
