"""What a model can do here: found before a run from its configuration, by trying a random small model of its kind."""

from latentmas_ray.models.abilities.find import Abilities, find_abilities

__all__ = ["Abilities", "find_abilities"]
