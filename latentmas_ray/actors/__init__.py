"""The runtimes that execute turns: Ray actors, one or more per replica, or this process alone.

Both implement the scheduler's `Runtime` protocol and call the same `execute_turn`. Each is imported on first use: the
local runtime needs no Ray, and neither needs transformers before a model is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentmas_ray.actors.local_runtime import LocalRuntime
    from latentmas_ray.actors.metrics import RayMetrics
    from latentmas_ray.actors.ray_runtime import RayRuntime

_HOMES = {"LocalRuntime": "local_runtime", "RayMetrics": "metrics", "RayRuntime": "ray_runtime"}

__all__ = ["LocalRuntime", "RayMetrics", "RayRuntime"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
