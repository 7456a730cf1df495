"""Latent collaboration between LLM agents on a Ray cluster.

Agents think in hidden states and hand their working memory (KV cache) to one another; only the last one decodes text.
The names below are loaded when they are first used: importing this package imports neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latentmas_ray.renamed_modules import find_renamed_modules

if TYPE_CHECKING:
    from latentmas_ray.config import RunConfig
    from latentmas_ray.errors import (
        ConfigError,
        InputError,
        LatentMASError,
        OldNameWarning,
        QuestionsFailedError,
        RunError,
        SegmentError,
        TopologyError,
        UntrainedQuestionWarning,
        UnusedSettingWarning,
    )
    from latentmas_ray.memory import Memory
    from latentmas_ray.report.runs import FinishedRun, load_run
    from latentmas_ray.runs.controls.churn import Churn, churn
    from latentmas_ray.runs.controls.summary import ControlsSummary
    from latentmas_ray.runs.multi_seed import SeedsSummary
    from latentmas_ray.runs.results import Answer, Failure, Summary
    from latentmas_ray.runs.run_events import (
        MemoryFinished,
        Observer,
        QuestionAnswered,
        QuestionFailed,
        RunEnded,
        RunEvent,
        RunProgress,
        RunStarted,
        TextWritten,
        TurnFinished,
        TurnRepeated,
    )
    from latentmas_ray.system import LatentMAS, ResultStream
    from latentmas_ray.tasks.question import Question
    from latentmas_ray.topology.agent import Agent, Topology

__version__ = "0.1.0"

find_renamed_modules()

_HOMES = {
    "Agent": "topology.agent",
    "Answer": "runs.results",
    "Churn": "runs.controls.churn",
    "ConfigError": "errors",
    "ControlsSummary": "runs.controls.summary",
    "Failure": "runs.results",
    "FinishedRun": "report.runs",
    "InputError": "errors",
    "LatentMAS": "system",
    "LatentMASError": "errors",
    "Memory": "memory",
    "MemoryFinished": "runs.run_events",
    "Observer": "runs.run_events",
    "OldNameWarning": "errors",
    "Question": "tasks.question",
    "QuestionAnswered": "runs.run_events",
    "QuestionFailed": "runs.run_events",
    "QuestionsFailedError": "errors",
    "ResultStream": "system",
    "RunConfig": "config",
    "RunEnded": "runs.run_events",
    "RunError": "errors",
    "RunEvent": "runs.run_events",
    "RunProgress": "runs.run_events",
    "RunStarted": "runs.run_events",
    "SeedsSummary": "runs.multi_seed",
    "SegmentError": "errors",
    "Summary": "runs.results",
    "TextWritten": "runs.run_events",
    "Topology": "topology.agent",
    "TopologyError": "errors",
    "TurnFinished": "runs.run_events",
    "TurnRepeated": "runs.run_events",
    "UntrainedQuestionWarning": "errors",
    "UnusedSettingWarning": "errors",
    "churn": "runs.controls.churn",
    "load_run": "report.runs",
}

__all__ = [
    "Agent",
    "Answer",
    "Churn",
    "ConfigError",
    "ControlsSummary",
    "Failure",
    "FinishedRun",
    "InputError",
    "LatentMAS",
    "LatentMASError",
    "Memory",
    "MemoryFinished",
    "Observer",
    "OldNameWarning",
    "Question",
    "QuestionAnswered",
    "QuestionFailed",
    "QuestionsFailedError",
    "ResultStream",
    "RunConfig",
    "RunEnded",
    "RunError",
    "RunEvent",
    "RunProgress",
    "RunStarted",
    "SeedsSummary",
    "SegmentError",
    "Summary",
    "TextWritten",
    "Topology",
    "TopologyError",
    "TurnFinished",
    "TurnRepeated",
    "UntrainedQuestionWarning",
    "UnusedSettingWarning",
    "__version__",
    "churn",
    "load_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
