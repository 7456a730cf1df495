"""The border to transformers: load a model, its chat template, cache, realignment and sampling.

Nothing outside this folder imports transformers.
"""

from latentmas_ray.models.accept import wrap
from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.load import absolute_name, check_name, choose_device, load_model

__all__ = ["LanguageModel", "absolute_name", "check_name", "choose_device", "load_model", "wrap"]
