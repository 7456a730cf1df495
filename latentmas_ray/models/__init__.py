"""The interface to transformers: loading a model, its chat template, cache, realignment and sampling.

Only this folder imports transformers, and importing this package does not: names that need it are imported when they
are first used. `names` never needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latentmas_ray.models.names import absolute_name, check_name

if TYPE_CHECKING:
    from latentmas_ray.models.compat import wrap
    from latentmas_ray.models.devices import choose_device
    from latentmas_ray.models.language_model import LanguageModel
    from latentmas_ray.models.load import load_model

_MODULES = {"LanguageModel": "language_model", "choose_device": "devices", "load_model": "load", "wrap": "compat"}

__all__ = ["LanguageModel", "absolute_name", "check_name", "choose_device", "load_model", "wrap"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
