"""Makes the thought rule of a model."""

from pathlib import Path

import torch

from latentmas_ray.config.thoughts import (
    BlendParameters,
    NoiseParameters,
    ScaleParameters,
    SoftParameters,
    parse_thoughts,
)
from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.thoughts.base import ThoughtRule
from latentmas_ray.models.thoughts.noise import NoiseRule
from latentmas_ray.models.thoughts.realign import Realignment, matrix_of, mean_norm
from latentmas_ray.models.thoughts.soft import BlendRule, SoftRule


@torch.inference_mode()
def make_rule(lm: LanguageModel, thoughts: str, *, cache_dir: Path) -> ThoughtRule:
    """Return the rule `thoughts` (as `parse_thoughts` reads it) of a model; a collective step of its ranks.

    The matrix of `realign` is read from `cache_dir`, or solved and stored there. Raises ValueError, ShardError.
    """
    settings = parse_thoughts(thoughts)
    inputs_VE = lm.input_embeddings()
    norm = lm.ranks.broadcast_from_rank0(lambda: mean_norm(inputs_VE))
    match settings.parameters:
        case NoiseParameters(seed=seed):
            return NoiseRule(norm, seed=seed)
        case BlendParameters(weight=weight, temperature=temperature, top_k=top_k):
            return BlendRule(SoftRule(lm, norm, temperature=temperature, top_k=top_k), weight=weight)
        case SoftParameters(temperature=temperature, top_k=top_k, rescale=rescales):
            return SoftRule(lm, norm, temperature=temperature, top_k=top_k, rescales=rescales)
        case ScaleParameters(rescale=rescales):
            matrix_EE = matrix_of(lm, inputs_VE, cache_dir) if settings.name == "realign" else None
            return Realignment(matrix_EE, norm, rescales)
    raise AssertionError(f"no rule has these parameters: {settings}")
