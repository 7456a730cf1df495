"""The composition root: a configuration becomes a topology, a runtime and a scheduler, and questions become answers."""

from latentmas_ray.system.latent_mas import LatentMAS
from latentmas_ray.system.stream import ResultStream

__all__ = ["LatentMAS", "ResultStream"]
