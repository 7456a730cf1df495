"""Loads models by name: an embedded one, a folder, or a hub id. Translates transformers' errors to ModelError."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RevisionNotFoundError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_log

from latentmas_ray.errors import ModelError
from latentmas_ray.memory.layer_spec import DTYPES
from latentmas_ray.memory.spec import WHOLE
from latentmas_ray.models.compat import check_config, wrap
from latentmas_ray.models.devices import (
    check_divisible,
    check_shard_device,
    choose_device,
    place_weights,
    shard_arguments,
)
from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.names import MODEL_CHOICES, check_name, check_place, find_path, model_folder
from latentmas_ray.parallel.ranks import ALONE, Ranks

_HUB_SECONDS = 10.0  # for the hub's first answer
_log = logging.getLogger(__name__)


def load_model(
    name: str, *, dtype: str = "auto", device: str = "auto", ranks: Ranks = ALONE, revision: str | None = None
) -> LanguageModel:
    """Load and check a model. `name` is an embedded model, a folder or a hub id; `revision` a branch, tag or commit of
    a hub id; `dtype` auto keeps the model's own.

    A model that is too large for one GPU is spread over the visible ones, unless `device` names one. With several
    `ranks` only this rank's part of the weights is read. Raises ModelError if the model cannot be loaded, does not fit
    or cannot collaborate; ShardError.
    """
    if ranks.shard != WHOLE:
        return _load_shard(name, dtype, device, ranks, revision)
    place = choose_device(device)
    model = load_weights(name, dtype, {"device_map": _device_map(name, dtype, place, revision)}, revision)
    lm = wrap(model, load_tokenizer(name, revision), name)
    warn_without_template(lm)
    return lm


def _load_shard(name: str, dtype: str, device: str, ranks: Ranks, revision: str | None) -> LanguageModel:
    with ranks.all_or_none():
        num_ranks = ranks.shard.world_size
        check_shard_device(choose_device(device), device, num_ranks)
        config = load_config(name, revision)
        check_divisible(config, name, num_ranks)
        tokenizer = load_tokenizer(name, revision)
        model = load_weights(name, dtype, shard_arguments(config, num_ranks), revision)
    lm = wrap(model, tokenizer, name, ranks)
    warn_without_template(lm)
    return lm


def warn_without_template(lm: LanguageModel) -> None:
    """Log a warning for a base model."""
    if not lm.chat.tokenizer.chat_template and lm.ranks.shard.rank == 0:
        _log.warning("model %s has no chat template: prompts are given as plain paragraphs", lm.name)


def check_configuration(name: str, revision: str | None) -> None:
    """Find and check a model's configuration; part of `check_name`. Raises ModelError."""
    with translated(name, f"it must be {MODEL_CHOICES}"):
        check_config(_found_config(name, revision), name)


def read_config(name: str, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a model that may be one that cannot collaborate. Raises ModelError where there is none."""
    check_place(name, revision)
    with translated(name, f"it must be {MODEL_CHOICES}"):
        return _found_config(name, revision)


def _found_config(name: str, revision: str | None) -> PretrainedConfig:
    if find_path(name) is None:
        _find_on_hub(name, revision)
    return _read_config(name, revision)


def _find_on_hub(name: str, revision: str | None) -> None:
    """Query the hub once: transformers queries file after file with retries, and takes half a minute to fail offline.
    Raises the hub's own errors, and ModelError."""
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    try:
        HfApi().model_info(name, revision=revision, timeout=_HUB_SECONDS)
    except RevisionNotFoundError as error:
        expected = f"the hub has no branch, tag or commit of this name of model {name}"
        raise ModelError("revision", str(revision), expected) from error
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled):
        raise
    except Exception as error:  # errors of the HTTP library that the hub's library uses
        wanted = "it is not a folder and" if revision is None else f"its revision {revision} is"
        expected = f"{wanted} not in the local cache, and the hub cannot be reached: {error}"
        raise ModelError("model", name, expected) from error


def load_config(name: str, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a model folder or hub id, without its weights. Raises ModelError like `check_name`."""
    check_name(name, revision)
    with translated(name, "its configuration must load"):
        return _read_config(name, revision)


def _read_config(name: str, revision: str | None) -> PretrainedConfig:
    return AutoConfig.from_pretrained(location_of(name), trust_remote_code=False, **_at(revision))


def load_weights(name: str, dtype: str, where: Mapping[str, Any], revision: str | None) -> PreTrainedModel:
    """Load the weights. `where` holds the arguments of `from_pretrained` for devices or ranks."""
    check_name(name, revision)
    with translated(name, "its weights must load"):
        model, report = auto_class(_read_config(name, revision)).from_pretrained(
            location_of(name),
            trust_remote_code=False,
            dtype="auto" if dtype == "auto" else DTYPES[dtype],
            attn_implementation="eager",  # every family has it; the probe sets the engine's
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
            **where,
            **_at(revision),
        )
    if missing := sorted(report["missing_keys"]):  # transformers would use random ones, with a warning
        expected = f"its weights must be complete: {len(missing)} are missing, like {missing[0]}"
        if others := sorted(report["unexpected_keys"]):
            expected += f"; its files have {len(others)} of another kind of model, like {others[0]}"
        raise ModelError("model", name, expected)
    if report["mismatched_keys"]:
        key, found, wanted = sorted(report["mismatched_keys"])[0]
        expected = (
            f"its weights must have the shapes of its configuration: {key} is {tuple(found)}, not {tuple(wanted)}"
        )
        raise ModelError("model", name, expected)
    return model


def auto_class(config: PretrainedConfig) -> Any:
    """The transformers class that makes the model of a configuration: of a vision-language model that has no class for
    text alone it is the whole model. Raises ValueError for another kind of model."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"transformers has no causal language model of kind {config.model_type}")
    return AutoModelForCausalLM


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises ModelError."""
    with translated(name, "its tokenizer must load"):
        return AutoTokenizer.from_pretrained(location_of(name), trust_remote_code=False, **_at(revision))


def _at(revision: str | None) -> dict[str, str]:
    """The revision as an argument of `from_pretrained`."""
    return {} if revision is None else {"revision": revision}


@contextmanager
def translated(name: str, expected: str) -> Iterator[None]:
    """Translate every error inside to a one-line ModelError; mutes transformers' own reports."""
    level, has_bars = transformers_log.get_verbosity(), transformers_log.is_progress_bar_enabled()
    hub_log = logging.getLogger("huggingface_hub")
    hub_level = hub_log.level
    transformers_log.set_verbosity(logging.CRITICAL)
    hub_log.setLevel(logging.CRITICAL)  # it reports every retry of an unreachable hub
    transformers_log.disable_progress_bar()  # every actor would show its own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of torch, about pickled weights
            yield
    except ModelError:
        raise
    except Exception as error:  # the libraries below have no common root: tokenizers raises plain Exception
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        if isinstance(error, KeyError):
            reason = f"a file has no {error}"
        if "weights_only" in str(error):  # torch advises to run what is in the file
            reason = "they are a pickle that holds more than tensors, which is never loaded; save them as safetensors"
        if "trust_remote_code" in str(error):
            reason = "it needs the Python code in its files, which is never run; give a model that transformers knows"
        raise ModelError("model", name, f"{expected}: {reason}") from error
    finally:
        transformers_log.set_verbosity(level)
        hub_log.setLevel(hub_level)
        if has_bars:
            transformers_log.enable_progress_bar()


def _device_map(name: str, dtype: str, place: torch.device, revision: str | None) -> Mapping[str, torch.device | int]:
    """A named device holds the whole model; plain `cuda` means any GPUs with enough memory."""
    if place != torch.device("cuda"):
        return {"": place}
    config = _read_config(name, revision)
    if getattr(config, "quantization_config", None) is not None:
        return {"": 0}  # only its quantizer knows its size
    with torch.device("meta"):
        # Weights without a dtype in the configuration count as float32, the largest possible.
        chosen = (config.dtype or torch.float32) if dtype == "auto" else DTYPES[dtype]
        empty = auto_class(config).from_config(
            config, trust_remote_code=False, dtype=chosen, attn_implementation="eager"
        )
    return place_weights(empty, name, map(_free_bytes, range(torch.cuda.device_count())))


def _free_bytes(gpu: int) -> int:
    """The free bytes of a GPU, including memory that torch caches here."""
    kept = torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    return torch.cuda.mem_get_info(gpu)[0] + kept


def location_of(name: str) -> str:
    """The folder of a model, or its hub id, for the libraries that read it."""
    path = model_folder(name)
    return name if path is None else str(path)
