"""A task under several memory controls, on the same actors."""

from latentmas_ray.system.controls.evaluation import ControlsEvaluation

__all__ = ["ControlsEvaluation"]
