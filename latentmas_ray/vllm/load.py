"""Loads a text engine on vLLM. Importing this module imports neither torch nor vLLM, so a process that only sends
`load_text_engine` to another one stays light."""

import logging
import sys
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from latentmas_ray.config.choices import SamplerName
from latentmas_ray.env import enter_launched_group, prepare_vllm
from latentmas_ray.errors import LatentMASError, ModelError, first_line
from latentmas_ray.models.names import model_folder
from latentmas_ray.vllm.installed import HOW_TO_INSTALL, known_fields, require_vllm

if TYPE_CHECKING:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from latentmas_ray.memory import TPRank
    from latentmas_ray.models.given import GivenModel
    from latentmas_ray.vllm.engine import VllmTextEngine
    from latentmas_ray.vllm.reference import Reference

_CPU_CACHE_BYTES = 2**30
_log = logging.getLogger(__name__)


def load_text_engine(
    model: "str | GivenModel",
    *,
    dtype: str = "auto",
    revision: str | None = None,
    max_running: int = 64,
    kv_cache_bytes: int | None = None,
    sampler: SamplerName = "counter",
    takes_inputs: bool = False,
    is_compiled: bool | None = None,
    shard: "TPRank | None" = None,
    rendezvous: tuple[str, int] | None = None,
    group: str = "",
    **more: Any,
) -> "VllmTextEngine":
    """Load a model by name into vLLM in this process, and check it against our own engine.

    `max_running` questions are written at the same time. `kv_cache_bytes` is the size of the paged cache; None: on a
    GPU what vLLM takes itself, on a CPU 1 GiB. `takes_inputs` also accepts recompute inputs in place of memory, which
    slows down prompts. `is_compiled` None compiles on GPUs only. `shard` is this process's part of a model that is
    divided over several. They meet at `rendezvous`, a host and a port; None: they are torch's default process group
    already. All of them give the same `group`, a name that no other group of the machine has, and must start and abort
    the same questions before the same step. `more` are further arguments of vLLM's `EngineArgs`.

    On a CPU vLLM changes the whole process: nothing else should compute in it. Raises ModelError, and ConfigError if
    vLLM is not installed.
    """
    require_vllm()
    if not isinstance(model, str):
        expected = "vLLM reads models from folders: save this one with save_pretrained, or use engine transformers"
        raise ModelError("model", model.name, expected)
    prepare_vllm()
    from latentmas_ray.vllm.checks import check_windows
    from latentmas_ray.vllm.reference import make_reference

    reference = make_reference(model, dtype=dtype, revision=revision, shard=shard)  # before vLLM changes the process
    check_windows(reference.spec, model)
    divided: dict[str, Any] = {}
    if shard is not None and shard.world_size > 1:
        enter_launched_group(shard.rank, shard.world_size, *(rendezvous or ("", 0)))
        divided = {"tensor_parallel_size": shard.world_size, "distributed_executor_backend": "external_launcher"}
    return _start(
        model,
        reference,
        sampler,
        {
            "revision": revision,
            "max_num_seqs": max_running,
            "kv_cache_memory_bytes": kv_cache_bytes,
            "enable_prompt_embeds": takes_inputs,
            **({} if is_compiled is None else {"enforce_eager": not is_compiled}),
            **divided,
            **more,
        },
        group,
    )


def computes_on_cpu() -> bool:
    """Return whether vLLM computes on the CPU in this process, which its build decides: that for CPUs leaves a GPU
    alone. Imports vLLM. Raises ConfigError if it is not installed."""
    require_vllm()
    prepare_vllm()
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def reason_of(error: Exception) -> str:
    """Return what an error of vLLM says in one line; of pydantic's, whose first line is only a count, the first."""
    if not isinstance(error, ValidationError):
        return first_line(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    lines = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").split("\n")
    field = ".".join(map(str, first["loc"]))
    return f"{field}: {lines[0]}" if field else lines[0]


def _start(
    model: str, reference: "Reference", sampler: SamplerName, given: dict[str, Any], group: str
) -> "VllmTextEngine":
    """Start vLLM with these arguments and those that are needed, and check it."""
    import torch

    from latentmas_ray.vllm.checks import check_fields, check_layers, check_probe

    check_fields()
    from vllm.config import KVTransferConfig

    from latentmas_ray.vllm import connector, counter_sampler
    from latentmas_ray.vllm.engine import VllmTextEngine

    is_cpu = computes_on_cpu()
    if is_cpu and torch.cuda.is_available():
        _log.warning("the build of vLLM that is installed is for CPUs: it does not use the GPU (%s)", HOW_TO_INSTALL)
    path = model_folder(model)
    arguments = {
        "model": model if path is None else str(path),
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "generation_config": "vllm",  # a folder's own would change the sampling
        "dtype": reference.spec.dtype,
        "kv_cache_dtype": "auto",
        "max_model_len": -1,  # as many positions as fit the cache
        "enable_prefix_caching": True,
        "enforce_eager": is_cpu,
        "async_scheduling": False,  # the sampler must know the tokens before
        "logits_processors": [counter_sampler.PATH] if sampler == "counter" else None,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "kv_transfer_config": KVTransferConfig(
            kv_connector=connector.NAME,
            kv_connector_module_path=connector.MODULE,
            kv_role="kv_consumer",
            kv_load_failure_policy="fail",
        ),
        **given,
    }
    if is_cpu and arguments["kv_cache_memory_bytes"] is None:
        arguments["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    llm = _make_engine(model, arguments, group)
    max_positions, bound = _positions(llm, reference)
    check_layers(llm.vllm_config, reference.spec, model)
    engine = VllmTextEngine(
        llm,
        spec=reference.spec,
        chat=reference.chat,
        model_name=model,
        device="cpu" if is_cpu else torch.cuda.get_device_name(),
        max_positions=max_positions,
        positions_bound=bound,
        max_running=arguments["max_num_seqs"],
        sampler=sampler,
        takes_inputs=arguments["enable_prompt_embeds"],
    )
    check_probe(engine, reference.probe)
    return engine


def _positions(llm: "LLMEngine", reference: "Reference") -> tuple[int, str]:
    """Return how many positions a question has, and what bounds them if that is not the model."""
    from latentmas_ray.placement.cache_size import describe_bound

    with known_fields():
        num_positions, cache = int(llm.model_config.max_model_len), llm.vllm_config.cache_config
        num_bytes = cache.num_gpu_blocks * cache.block_size * reference.spec.bytes_per_token
    bound = describe_bound(num_positions, cache_bytes=num_bytes, of_model=reference.max_positions)
    return min(num_positions, reference.max_positions or sys.maxsize), bound


def _start_rank(arguments: "EngineArgs", group: str) -> "LLMEngine":
    from vllm.v1.engine.llm_engine import LLMEngine

    from latentmas_ray.vllm.divided import make_executor, remove_names

    config = arguments.create_engine_config()
    llm = LLMEngine(config, make_executor(group), log_stats=not arguments.disable_log_stats)
    remove_names(group)
    return llm


def _make_engine(model: str, arguments: dict[str, Any], group: str) -> "LLMEngine":
    """Return vLLM's engine; of one rank, if `group` is the name of its group. Raises ModelError."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    try:
        wanted = EngineArgs(**arguments)
        llm = _start_rank(wanted, group) if group else LLMEngine.from_engine_args(wanted)
    except LatentMASError:
        raise
    except Exception as error:  # vLLM's errors have no common root
        expected = f"vLLM must load it: {reason_of(error)}; use engine transformers to run without vLLM"
        raise ModelError("model", model, expected) from error
    with known_fields():
        is_second = llm.vllm_config.use_v2_model_runner
        _ = llm.engine_core.shutdown, llm.model_config  # read later: only an engine that has started has them
    if is_second:
        raise ModelError("model", model, "vLLM must compute with its first model runner, which our sampler is made for")
    return llm
