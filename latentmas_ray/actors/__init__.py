"""Who carries out turns: thin Ray actors, one per agent and replica, or this process alone.

Both runtimes speak the driver's `Runtime` protocol and call the same `carry_out`.
"""

from latentmas_ray.actors.local_runtime import LocalRuntime
from latentmas_ray.actors.metrics import RayMetrics
from latentmas_ray.actors.ray_runtime import RayRuntime

__all__ = ["LocalRuntime", "RayMetrics", "RayRuntime"]
