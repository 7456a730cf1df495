"""Memory that its reader computes again, from the inputs of the agent that wrote it.

segments    the KV of segments that came as recompute inputs
translated  the segments of agents with another model, as inputs of the reader's
"""

from latentmas_ray.engine.recompute.segments import recompute
from latentmas_ray.engine.recompute.translated import InputTranslator, SameWeights, TranslatedSegments

__all__ = ["InputTranslator", "SameWeights", "TranslatedSegments", "recompute"]
