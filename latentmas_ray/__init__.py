"""Latent collaboration between LLM agents on a Ray cluster.

Agents think in hidden states and hand their working memory (KV cache) to one another; only the last one decodes text.
The names below are loaded when they are first used: importing this package imports neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentmas_ray.config import RunConfig
    from latentmas_ray.driver.over_seeds import SeedsSummary
    from latentmas_ray.driver.results import Answer, Summary
    from latentmas_ray.errors import InputError, LatentMASError, RunError, SegmentError
    from latentmas_ray.memory import Memory
    from latentmas_ray.system import LatentMAS
    from latentmas_ray.tasks.question import Question
    from latentmas_ray.topology.agent import Agent, Topology

__version__ = "0.1.0"

_HOMES = {
    "Agent": "topology.agent",
    "Answer": "driver.results",
    "InputError": "errors",
    "LatentMAS": "system",
    "LatentMASError": "errors",
    "Memory": "memory",
    "Question": "tasks.question",
    "RunConfig": "config",
    "RunError": "errors",
    "SeedsSummary": "driver.over_seeds",
    "SegmentError": "errors",
    "Summary": "driver.results",
    "Topology": "topology.agent",
}

__all__ = [
    "Agent",
    "Answer",
    "InputError",
    "LatentMAS",
    "LatentMASError",
    "Memory",
    "Question",
    "RunConfig",
    "RunError",
    "SeedsSummary",
    "SegmentError",
    "Summary",
    "Topology",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
