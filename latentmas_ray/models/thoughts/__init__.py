"""Thought rules: how an agent's last hidden state becomes its next input. One file for each kind of rule."""

from latentmas_ray.models.thoughts.base import ThoughtKey, ThoughtRule, thought_keys
from latentmas_ray.models.thoughts.make import make_rule

__all__ = ["ThoughtKey", "ThoughtRule", "make_rule", "thought_keys"]
