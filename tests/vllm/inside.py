"""What tests do in the process with vLLM: functions of the engine, which are sent there by name."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import repeat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentmas_ray.errors import LatentMASError
from latentmas_ray.memory import RopeSpec
from latentmas_ray.memory.layer_spec import LayerSpec
from latentmas_ray.vllm.reference import Probe, make_reference
from latentmas_ray.vllm.registry import REGISTRY, WriteStats
from latentmas_ray.writing.text_engine import MemoryPart, TextRequest
from tests.vllm.child import Written, write_all

if TYPE_CHECKING:
    from latentmas_ray.vllm.engine import VllmTextEngine


def write_stats(engine: "VllmTextEngine") -> WriteStats:
    return copy.copy(engine.write_stats)


def num_held(engine: "VllmTextEngine") -> tuple[int, int]:
    """How many memories and questions are left."""
    return len(REGISTRY), len(engine._running)


def write_with_own_sampler(engine: "VllmTextEngine", requests: Sequence[TextRequest]) -> dict[str, Written]:
    engine.sampler = "engine"
    try:
        return write_all(engine, requests)
    finally:
        engine.sampler = "counter"


def write_with_one_salt(engine: "VllmTextEngine", requests: Sequence[TextRequest]) -> dict[str, Written]:
    """As if vLLM's cache of prefixes did not know one memory from another."""
    own, engine._salts = engine._salts, repeat(0)
    try:
        return write_all(engine, requests)
    finally:
        engine._salts = own


def write_skipping_the_cache(
    engine: "VllmTextEngine", requests: Sequence[TextRequest], is_guarded: bool
) -> dict[str, Written]:
    """Ask vLLM for the log probabilities of the prompts, which makes it skip external tokens, too."""
    parameters, fail = engine._parameters, REGISTRY.fail

    def with_prompt_logprobs(*arguments: Any, **more: Any) -> Any:
        made = parameters(*arguments, **more)
        made.prompt_logprobs, made.skip_reading_prefix_cache = 0, True
        return made

    engine._parameters = with_prompt_logprobs  # type: ignore[method-assign]
    if not is_guarded:
        REGISTRY.fail = lambda key, reason: None  # type: ignore[method-assign]
    try:
        return write_all(engine, requests)
    finally:
        engine._parameters = parameters  # type: ignore[method-assign]
        REGISTRY.fail = fail  # type: ignore[method-assign]


def write_on_a_dead_engine(engine: "VllmTextEngine", request: TextRequest) -> list[str]:
    """What is raised when vLLM raises in a step, and at the calls after that."""

    class DeadLLM:
        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any, **more: Any) -> None:
                if name == "step":
                    raise RuntimeError("the device is gone\nand much more")

            return call

    dead = copy.copy(engine)
    dead._llm, dead._running = DeadLLM(), set()
    dead.start(request)
    REGISTRY.release(request.key)
    raised = []
    for call in (dead.step, dead.step, lambda: dead.start(request)):
        try:
            call()
        except LatentMASError as error:
            raised.append(f"{type(error).__name__}: {error}")
        finally:
            REGISTRY.release(request.key)
    return raised


def probe_errors(engine: "VllmTextEngine") -> dict[str, str]:
    """What the check at load says of the right memory, of wrong ones, and of another model's logits."""
    from latentmas_ray.vllm.checks import check_probe

    probe = make_reference(engine.model_name, dtype=engine.spec.dtype, revision=None).probe
    head_dim = engine.spec.head_dim
    in_pairs = torch.arange(head_dim).view(2, head_dim // 2).T.flatten()  # dims that are rotated together, adjacent

    def with_parts(change: Callable[[MemoryPart], MemoryPart]) -> Probe:
        return replace(probe, memory=replace(probe.memory, parts=tuple(map(change, probe.memory.parts))))

    def with_kv(change: Callable[[Tensor], Tensor]) -> Probe:
        return with_parts(lambda part: replace(part, kv_LCHTD=change(part.kv_LCHTD)))

    others = {
        "right": probe,
        "keys one position on": with_parts(lambda part: replace(part, shift=part.shift + 1)),
        "keys one position back": with_parts(lambda part: replace(part, shift=part.shift - 1)),
        "dims in pairs": with_kv(lambda kv: torch.stack([kv[:, 0][..., in_pairs], kv[:, 1]], dim=1)),
        "other heads": with_kv(lambda kv: kv.flip(2)),
        "other layers": with_kv(lambda kv: kv.flip(0)),
        "values as keys": with_kv(lambda kv: kv.flip(1)),
        "another model": replace(probe, logits_V=probe.logits_V.flip(0)),
    }
    said = {}
    for name, other in others.items():
        try:
            check_probe(engine, other)
            said[name] = ""
        except LatentMASError as error:
            said[name] = str(error)
    return said


def layer_errors(engine: "VllmTextEngine") -> list[str]:
    """What the check of the layers says of the right spec and of others."""
    from latentmas_ray.vllm.checks import check_layers

    spec, said = engine.spec, []
    narrow = LayerSpec.attention(spec.num_kv_heads, 32, spec.dtype, RopeSpec("default", spec.rope.inv_freq[:16]))
    for other in (spec, replace(spec, layers=spec.layers[:-1]), replace(spec, layers=(narrow,) * spec.num_layers)):
        try:
            check_layers(engine._engine().vllm_config, other, engine.model_name)
            said.append("")
        except LatentMASError as error:
            said.append(str(error))
    return said


def errors_of_another_vllm(engine: "VllmTextEngine") -> list[str]:
    """What is said of a configuration and of a layer that lack fields which are read."""
    from latentmas_ray.vllm.checks import check_layers

    bare = SimpleNamespace(kv_cache=None, impl=None)
    lacking = SimpleNamespace(
        compilation_config=SimpleNamespace(
            static_forward_context={f"model.layers.{number}.attn": bare for number in range(engine.spec.num_layers)}
        )
    )
    said = []
    for config in (SimpleNamespace(), lacking):
        try:
            check_layers(config, engine.spec, engine.model_name)
        except LatentMASError as error:
            said.append(str(error))
    return said


def error_of_bad_arguments(engine: "VllmTextEngine") -> str:
    """What is said when vLLM refuses its configuration."""
    from latentmas_ray.models.names import EMBEDDED_FOLDER
    from latentmas_ray.vllm.load import _make_engine

    arguments = {"model": str(EMBEDDED_FOLDER), "skip_tokenizer_init": True, "max_model_len": 10**9}
    try:
        _make_engine(engine.model_name, arguments, "")
    except LatentMASError as error:
        return str(error)
    return ""


def bounds(engine: "VllmTextEngine") -> tuple[int | None, str]:
    """How many positions a question has, and why."""
    return engine.max_positions, engine.positions_bound


def write_ignoring_load_errors(engine: "VllmTextEngine", requests: Sequence[TextRequest]) -> dict[str, Written]:
    """As if nobody looked whether a memory was loaded."""
    from latentmas_ray.vllm.connector import MemoryConnector

    get_errors, fail = MemoryConnector.get_block_ids_with_load_errors, REGISTRY.fail
    MemoryConnector.get_block_ids_with_load_errors = lambda self: set()  # type: ignore[method-assign]
    REGISTRY.fail = lambda key, reason: None  # type: ignore[method-assign]
    try:
        return write_all(engine, requests)
    finally:
        MemoryConnector.get_block_ids_with_load_errors = get_errors  # type: ignore[method-assign]
        REGISTRY.fail = fail  # type: ignore[method-assign]


def write_after_release(engine: "VllmTextEngine", requests: Sequence[TextRequest], key: str) -> dict[str, Written]:
    """Release one memory before the first step."""
    for request in requests:
        engine.start(request)
    REGISTRY.release(key)
    return write_all(engine, requests, num_started=len(requests))


def write_and_abort(engine: "VllmTextEngine", requests: Sequence[TextRequest], key: str) -> dict[str, Written]:
    """Abort one question after two steps."""
    for request in requests:
        engine.start(request)
    written = {request.key: Written() for request in requests}
    for _ in range(2):
        for output in engine.step():
            written[output.key].token_ids += output.token_ids
    engine.abort([key, "unknown"])
    rest = write_all(engine, [request for request in requests if request.key != key], num_started=len(requests) - 1)
    for other, one in rest.items():
        written[other] = Written(written[other].token_ids + one.token_ids, one.end, one.error)
    return written


def write_without_inputs(engine: "VllmTextEngine", request: TextRequest) -> None:
    engine._takes_inputs = False
    try:
        engine.start(request)
    finally:
        engine._takes_inputs = True


def queued_while_writing(engine: "VllmTextEngine", requests: Sequence[TextRequest]) -> list[int]:
    """How many questions wait for blocks: after all have started, after the first step, and when all have ended."""
    for request in requests:
        engine.start(request)
    seen = [len(engine.queued)]
    engine.step()
    seen.append(len(engine.queued))
    while engine._running:
        engine.step()
    return [*seen, len(engine.queued)]
