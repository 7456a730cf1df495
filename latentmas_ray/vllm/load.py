"""Loads a text engine on vLLM. Importing this module imports neither torch nor vLLM, so a process that only sends
`load_text_engine` to another one stays light."""

from typing import TYPE_CHECKING, Any, Literal

from latentmas_ray.env import prepare_vllm
from latentmas_ray.errors import ConfigError, LatentMASError, ModelError, first_line
from latentmas_ray.models.names import find_path

if TYPE_CHECKING:
    from latentmas_ray.models.given import GivenModel
    from latentmas_ray.vllm.engine import VllmTextEngine

_CPU_CACHE_BYTES = 2**30


def load_text_engine(
    model: "str | GivenModel",
    *,
    dtype: str = "auto",
    revision: str | None = None,
    max_running: int = 64,
    kv_cache_bytes: int | None = None,
    sampler: Literal["counter", "engine"] = "counter",
    is_compiled: bool | None = None,
    **more: Any,
) -> "VllmTextEngine":
    """Load a model by name into vLLM in this process, and check it against our own engine's.

    `max_running` questions are written at the same time. `kv_cache_bytes` is the size of the paged cache; None: on a
    GPU what vLLM takes itself, on a CPU 1 GiB. `is_compiled` None compiles on GPUs only. `more` are further arguments
    of vLLM's `EngineArgs`. On a CPU vLLM changes the whole process: nothing else should compute in it. Raises
    ModelError, and ConfigError if vLLM is not installed.
    """
    if not isinstance(model, str):
        expected = "vLLM loads models from folders: save it with save_pretrained and give the folder, or use engine"
        raise ModelError("model", model.name, f"{expected} transformers")
    prepare_vllm()
    from latentmas_ray.vllm.reference import make_reference

    reference = make_reference(model, dtype=dtype, revision=revision)  # before vLLM changes the process
    try:
        import torch
        from vllm.config import KVTransferConfig
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from latentmas_ray.vllm import connector, sampler as own_sampler
        from latentmas_ray.vllm.engine import VllmTextEngine
    except ImportError as error:
        expected = f"vLLM must be installed here: {first_line(error)}; use engine transformers to run without it"
        raise ConfigError("engine", "vllm", expected) from error
    is_cpu = not torch.cuda.is_available()
    path = find_path(model)
    arguments = {
        "model": model if path is None else str(path),
        "revision": revision,
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "generation_config": "vllm",  # a folder's own would change the sampling
        "dtype": reference.spec.dtype,
        "kv_cache_dtype": "auto",
        "max_model_len": -1,  # all positions that fit the cache
        "max_num_seqs": max_running,
        "kv_cache_memory_bytes": kv_cache_bytes or (_CPU_CACHE_BYTES if is_cpu else None),
        "enable_prefix_caching": True,
        "enforce_eager": is_cpu if is_compiled is None else not is_compiled,
        "async_scheduling": False,  # the sampler must know the tokens before
        "logits_processors": [own_sampler.PATH] if sampler == "counter" else None,
        "disable_log_stats": True,
        "kv_transfer_config": KVTransferConfig(
            kv_connector=connector.NAME,
            kv_connector_module_path=connector.MODULE,
            kv_role="kv_consumer",
            kv_load_failure_policy="fail",
        ),
        **more,
    }
    try:
        llm = LLMEngine.from_engine_args(EngineArgs(**arguments))
    except LatentMASError:
        raise
    except Exception as error:  # vLLM's errors have no common root
        expected = f"vLLM must load it: {first_line(error)}; use engine transformers to run without vLLM"
        raise ModelError("model", model, expected) from error
    engine = VllmTextEngine(
        llm,
        spec=reference.spec,
        chat=reference.chat,
        model_name=model,
        device="cpu" if is_cpu else torch.cuda.get_device_name(),
        max_positions=min(llm.model_config.max_model_len, reference.max_positions or llm.model_config.max_model_len),
        max_running=max_running,
        sampler=sampler,
    )
    return engine
