"""Models by name: the embedded one, a folder, or a hub id. Errors of transformers become ModelError here."""

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from latentmas_ray.errors import ModelError
from latentmas_ray.memory.spec import DTYPES
from latentmas_ray.models.language_model import LanguageModel, wrap
from latentmas_ray.models.probe import check_model
from latentmas_ray.models.tiny import tiny_model, tiny_tokenizer

_log = logging.getLogger(__name__)
# What transformers and what lies below it raise for models that are missing, damaged or unknown.
_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)


def load_model(name: str, *, dtype: str = "auto", device: str = "auto") -> LanguageModel:
    """Load and check a model. `name` is `tiny`, a folder or a hub id; `dtype` auto keeps the model's own.

    On one device that is too small, accelerate spreads the layers over what there is. Raises ModelError with one
    line for whatever is wrong with the model.
    """
    place = _choose_device(device)
    if name == "tiny":
        lm = wrap(tiny_model(DTYPES["float32" if dtype == "auto" else dtype]).to(place), tiny_tokenizer(), name)
    else:
        lm = wrap(_load_weights(name, dtype, place), _load_tokenizer(name), name)
        if not lm.chat.tokenizer.chat_template:
            _log.warning("model %s has no chat template: prompts are given as plain paragraphs", name)
    check_model(lm)
    return lm


def check_name(name: str) -> None:
    """A cheap look before anything is started. Raises ModelError for a folder that cannot be a model, or for a hub
    id that is neither in the local cache nor reachable."""
    path = Path(name).expanduser()
    looks_like_path = name.startswith((".", "/", "~")) or path.exists()
    if name == "tiny":
        return
    if looks_like_path and not path.is_dir():
        raise ModelError("model", name, "there is no such folder; give tiny, a model folder or a hub id")
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError("model", name, "the folder must hold a config.json (a model saved by save_pretrained)")
    _load_config(name)


def _load_config(name: str) -> object:
    try:
        return AutoConfig.from_pretrained(_location(name))
    except _LOAD_ERRORS as error:
        raise ModelError("model", name, f"it must be tiny, a model folder or a hub id: {_first_line(error)}") from error


def _load_weights(name: str, dtype: str, place: torch.device) -> PreTrainedModel:
    check_name(name)
    try:
        return AutoModelForCausalLM.from_pretrained(
            _location(name),
            dtype="auto" if dtype == "auto" else DTYPES[dtype],
            attn_implementation="sdpa",
            device_map=_device_map(place),
        )
    except _LOAD_ERRORS as error:
        raise ModelError("model", name, f"its weights must load: {_first_line(error)}") from error


def _load_tokenizer(name: str):  # type: ignore[no-untyped-def]  # transformers is untyped here
    try:
        return AutoTokenizer.from_pretrained(_location(name))
    except _LOAD_ERRORS as error:
        raise ModelError("model", name, f"its tokenizer must load: {_first_line(error)}") from error


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("device", device, "this machine has no CUDA device; use auto or cpu")
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise ModelError("device", device, f"this machine has {torch.cuda.device_count()} CUDA devices")
    return torch.device(device)


def _device_map(place: torch.device) -> str | dict[str, torch.device]:
    """A named device takes the whole model; plain `cuda` lets accelerate spread one that is too large."""
    return "auto" if place.type == "cuda" and place.index is None else {"": place}


def _location(name: str) -> str:
    path = Path(name).expanduser()
    return str(path) if path.is_dir() else name


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
