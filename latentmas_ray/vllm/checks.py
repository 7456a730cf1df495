"""Checks of vLLM before it starts: that it has the fields that are read here; and of a model that it has loaded: its
cache, and what it computes. A difference would only show as worse answers. Importing this imports nothing of vLLM."""

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import ConfigError, ModelError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.vllm.installed import HOW_TO_INSTALL, find_vllm, known_fields
from latentmas_ray.vllm.reference import Probe
from latentmas_ray.writing.text_engine import TextRequest

if TYPE_CHECKING:
    from latentmas_ray.vllm.engine import VllmTextEngine

# Relative to the largest logit: rounding of the dtype over a model's depth, far below what wrong memory does.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
_ADVICE = "use engine transformers"

# What this folder reads or overrides and no documentation of vLLM promises: module, class, names. There is no public
# way to any of it; what there is a public way to is not in this table.
_FIELDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("vllm.config", "CompilationConfig", ("static_forward_context",)),  # the attention layers, which write the cache
    ("vllm.config", "CacheConfig", ("block_size", "num_gpu_blocks")),
    ("vllm.config", "ModelConfig", ("get_vocab_size", "max_model_len")),
    ("vllm.config", "ParallelConfig", ("tensor_parallel_size",)),
    ("vllm.config", "VllmConfig", ("use_v2_model_runner",)),
    ("vllm.v1.engine.llm_engine", "LLMEngine", ("add_request", "step", "abort_request", "apply_model")),
    ("vllm.v1.engine.core_client", "EngineCoreClient", ("shutdown",)),  # an LLMEngine has no end of its own
    (
        "vllm.distributed.kv_transfer.kv_connector.v1.base",
        "KVConnectorBase_V1",
        ("_get_connector_metadata", "get_block_ids_with_load_errors"),
    ),
    ("vllm.distributed.parallel_state", "GroupCoordinator", ("cpu_group", "world_size")),
    ("vllm.v1.executor.uniproc_executor", "ExecutorWithExternalLauncher", ("_distributed_args",)),
    ("vllm.v1.sample.logits_processor.interface", "MoveDirectionality", ("SWAP",)),
    ("vllm.model_executor.models.utils", "extract_layer_index", ("__call__",)),
)


def check_fields() -> None:
    """Raise ConfigError, its field `engine`, that names the version and everything that it lacks of what is read of
    vLLM's inner parts. Imports vLLM."""
    if lacking := [*_lacking_fields()]:
        expected = f"{find_vllm()} is not supported, as it has no {', '.join(lacking)}: {HOW_TO_INSTALL}"
        raise ConfigError("engine", "vllm", f"{expected}; or use transformers")


def _lacking_fields() -> Iterator[str]:
    for module, owner, names in _FIELDS:
        try:
            found = getattr(import_module(module), owner)
        except (ImportError, AttributeError):
            yield f"{module}.{owner}"
            continue
        known = set(dir(found))
        for one in getattr(found, "__mro__", ()):
            known.update(_annotated(one))
        yield from (f"{owner}.{name}" for name in names if name not in known)


def _annotated(owner: type) -> set[str]:
    """Return the fields that a class declares, with a value or without."""
    declared = set(vars(owner).get("__dataclass_fields__", ()))
    if sys.version_info >= (3, 14):  # annotations are computed when they are asked for, and some types are not there
        from annotationlib import Format, get_annotations

        return declared.union(get_annotations(owner, format=Format.FORWARDREF))
    return declared.union(vars(owner).get("__annotations__", ()))


def check_windows(spec: KVCacheSpec, model: str) -> None:
    """Raise ModelError for a model with sliding windows: vLLM counts them in slots and frees what has left one, while
    memory may have holes and branches that were moved."""
    layer = next((layer for layer, window in enumerate(spec.windows) if window is not None), None)
    if layer is not None:
        expected = f"vLLM reads memory of layers that see everything; layer {layer} has a sliding window of"
        raise ModelError("model", model, f"{expected} {spec.windows[layer]} positions: {_ADVICE}")


def check_layers(vllm_config: Any, spec: KVCacheSpec, model: str) -> None:
    """Raise ModelError unless vLLM's attention layers cache what `spec` says, and can be written to; ConfigError if
    they are not those of the version that is supported."""
    layers = attention_layers(vllm_config)
    if len(layers) != spec.num_layers:
        raise ModelError("model", model, f"vLLM caches {len(layers)} layers, not {spec.num_layers}: {_ADVICE}")
    for number, layer in enumerate(layers):
        with known_fields():
            found = {
                "KV heads": (layer.num_kv_heads, spec.num_kv_heads),
                "head dim": (layer.head_size, spec.head_dim),
                "dtype": (layer.kv_cache_torch_dtype, spec.torch_dtype),
                "sliding window": (layer.sliding_window, None),
                "layer whose cache it shares": (layer.kv_sharing_target_layer_name, None),
                "way to write its cache": (hasattr(layer.impl, "do_kv_cache_update"), True),
            }
        for name, (own, wanted) in found.items():
            if own != wanted:
                raise ModelError("model", model, f"in vLLM layer {number} has {name} {own}, not {wanted}: {_ADVICE}")


def attention_layers(vllm_config: Any) -> list[Any]:
    """Return vLLM's attention layers that have a cache, in order."""
    with known_fields():
        context = vllm_config.compilation_config.static_forward_context
    from vllm.model_executor.models.utils import extract_layer_index

    names = [name for name, layer in context.items() if hasattr(layer, "kv_cache") and hasattr(layer, "impl")]
    return [context[name] for name in sorted(names, key=extract_layer_index)]


def check_probe(engine: "VllmTextEngine", probe: Probe) -> None:
    """Compare the first token's distribution after a memory, and after the tokens that it was computed from, with our
    own engine's. Raises ModelError if one differs."""
    plain = _request("probe of a prefill", probe.memory_ids + probe.prompt_ids)
    error = _difference(engine.first_logprobs(plain), probe)
    if not error <= _TOLERANCE[engine.spec.dtype]:
        raise ModelError("model", engine.model_name, f"vLLM computes other logits (by {error:.2g}): {_ADVICE}")
    with_memory = _request("probe of a memory", probe.prompt_ids, memory=probe.memory)
    error = _difference(engine.first_logprobs(with_memory), probe)
    if not error <= _TOLERANCE[engine.spec.dtype]:
        raise ModelError("model", engine.model_name, f"vLLM reads memory otherwise (by {error:.2g}): {_ADVICE}")


def _request(key: str, prompt_ids: tuple[int, ...], **more: Any) -> TextRequest:
    sampling = Sampling(max_new_tokens=1)
    return TextRequest(key=key, question_id=key, agent="probe", prompt_ids=prompt_ids, sampling=sampling, **more)


def _difference(logprobs: Mapping[int, float], probe: Probe) -> float:
    """The largest difference of a log probability, relative to the largest logit."""
    expected_V = probe.logits_V.log_softmax(dim=-1)
    largest = max(1.0, float(probe.logits_V.abs().max()))
    return max(abs(value - float(expected_V[token])) for token, value in logprobs.items()) / largest
