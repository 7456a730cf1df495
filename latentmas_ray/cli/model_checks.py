"""What `latentmas doctor --model` says: one `Check` for each thing that a run may need, and JSON."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from latentmas_ray.cli.checks import Check, Mark
from latentmas_ray.units import format_bytes
from latentmas_ray.vllm.families import vllm_obstacle, vllm_prospect

if TYPE_CHECKING:
    from latentmas_ray.memory import KVCacheSpec
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
    yield Check(Mark.OK, "cache", cache_kind(spec))
    yield Check(Mark.OK, "KV per token", f"{format_bytes(spec.bytes_per_token)} ({spec.bytes_per_token:,} bytes)")
    if spec.state_bytes:
        yield Check(Mark.OK, "states", f"{format_bytes(spec.state_bytes)} for each question, whatever its length")
    positions = f"{found.max_positions:,}" if found.max_positions else "no limit is configured"
    bound = f": {found.positions_bound}" if found.positions_bound else ""
    yield Check(Mark.WARN if bound else Mark.OK, "positions", f"{positions}{bound}")
    yield Check(Mark.OK, "window", _windows(spec))
    if (seen := seen_tokens(spec)) is not None:
        size = format_bytes(seen * spec.bytes_per_token)
        said = f"--keep-by window hands over the last {seen:,} tokens of a prompt, {size}"
        yield Check(Mark.OK, "seen", f"{said}: no layer sees more")
    if found.no_ranks:
        yield Check(Mark.WARN, "tp", f"1 alone: {found.no_ranks}")
    else:
        yield Check(Mark.OK, "tp", ", ".join(map(str, found.ranks)))
    obstacle = vllm_obstacle(spec)
    prospect = vllm_prospect(found.architecture) if obstacle is None else f"not with vLLM: {obstacle}"
    yield Check(Mark.WARN if obstacle else Mark.OK, "vLLM", prospect)
    if found.sees_images:
        yield Check(Mark.WARN, "images", "not read: its text decoder answers questions of text alone")
    yield Check(Mark.OK if found.weights.startswith("complete") else Mark.WARN, "weights", found.weights)
    if not found.has_template:
        yield Check(Mark.WARN, "chat template", "none, as base models have: prompts are given as plain paragraphs")


def cache_kind(spec: "KVCacheSpec") -> str:
    """Return what a layer caches, each kind with its number of layers."""
    counts = Counter(map(str, spec.layers))
    return "; ".join(f"{count} × ({kind})" for kind, count in counts.items())


def abilities_json(found: "Abilities") -> dict[str, Any]:
    """Return the same for scripts."""
    known: dict[str, Any] = {"model": found.model, "architecture": found.architecture, "works": found.spec is not None}
    if found.spec is None:
        return {**known, "reason": found.refusal}
    obstacle = vllm_obstacle(found.spec)
    return {
        **known,
        "chains": True,
        "merges": not found.no_merge,
        "no_merge": found.no_merge,
        "num_layers": found.spec.num_layers,
        "num_experts": found.num_experts,
        "cache": cache_kind(found.spec),
        "dtype": found.spec.dtype,
        "kv_bytes_per_token": found.spec.bytes_per_token,
        "state_bytes_per_question": found.spec.state_bytes,
        "max_positions": found.max_positions,
        "positions_bound": found.positions_bound,
        "windows": [{"tokens": tokens, "layers": layers} for tokens, layers in _window_counts(found.spec)],
        "seen_tokens_of_a_prompt": seen_tokens(found.spec),
        "tp": list(found.ranks),
        "no_tp": found.no_ranks,
        "vllm": obstacle is None,
        "vllm_note": obstacle or vllm_prospect(found.architecture),
        "reads_images": False,
        "weights": found.weights,
        "has_chat_template": found.has_template,
    }


def seen_tokens(spec: "KVCacheSpec") -> int | None:
    """Return how many tokens of a prompt a reader can see at most; None where a layer sees all of them."""
    windows = [layer.window for layer in spec.layers if layer.slot_tensors]
    if spec.has_states or any(window is None for window in windows):
        return None
    return max(1, max(window for window in windows if window is not None) - 1)


def _window_counts(spec: "KVCacheSpec") -> list[tuple[int, int]]:
    """Return each size of a window, with its number of layers."""
    return sorted(Counter(layer.window for layer in spec.layers if layer.window is not None).items())


def _windows(spec: "KVCacheSpec") -> str:
    parts = [f"{tokens:,} tokens in {layers} of {spec.num_layers} layers" for tokens, layers in _window_counts(spec)]
    return "; ".join(parts) or "none: every layer takes in everything before a token"
