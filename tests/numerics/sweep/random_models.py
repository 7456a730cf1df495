"""A random tiny model of a family, as a model folder: made from the family's default configuration by `shrink`."""

from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from latentmas_ray.models.abilities.shrink import shrink
from latentmas_ray.models.load import auto_class
from latentmas_ray.models.presets import tiny_tokenizer
from tests.numerics.sweep.listing import Family
from tests.numerics.sweep.made_with import MADE_WITH

_STD = 0.06  # small enough that rounding does not grow from step to step, large enough that a wrong position shows
_NOISE = 0.05  # of biases, norms and sinks, which begin as zeros or ones and would hide a forgotten one


def small_config(family: Family) -> PretrainedConfig:
    config = shrink(family.config_class(**MADE_WITH.get(family.name, {})))
    for part in (config, config.get_text_config(decoder=True)):
        if hasattr(part, "initializer_range"):
            part.initializer_range = _STD
    return config


def random_model(config: PretrainedConfig) -> PreTrainedModel:
    """The same weights for the same configuration, whatever was made before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        model = auto_class(config).from_config(config, trust_remote_code=False, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                parameter.data += torch.randn_like(parameter) * _NOISE
    return model.eval()


def save(model: PreTrainedModel, config: PretrainedConfig, folder: Path) -> None:
    """Save a model as published ones are: with the configuration of all its parts."""
    model.save_pretrained(folder)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
