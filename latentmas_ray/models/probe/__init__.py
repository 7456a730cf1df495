"""Finds out by a few test forwards what a loaded model computes: its masks, its positions, and whether it can
collaborate. Not by its name or family: by its numbers."""

from latentmas_ray.models.probe.check import probe

__all__ = ["probe"]
