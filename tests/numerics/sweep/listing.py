"""All decoder-only causal language models, and vision-language models, that the installed transformers knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers. `sees_images`: it is a vision-language model."""

    name: str
    architecture: str
    sees_images: bool

    @property
    def config_class(self) -> type[PretrainedConfig]:
        return CONFIG_MAPPING[self.name]


@cache
def all_families() -> Mapping[str, Family]:
    """By `model_type`, in the alphabet's order. A family that is in both of transformers' lists sees images."""
    vision = dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    names = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) | set(vision))
    found = {}
    for name in names:
        architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(name) or vision[name]
        found[name] = Family(name, str(architecture), name in vision)
    return found
