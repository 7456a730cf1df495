"""Runs a topology over questions: batches, pipelining, the bound on memory, retries, and the journal of a run.

The driver knows actors only by the `Runtime` protocol. It holds references and numbers, never a tensor.

One run is: `Journal.open` → `plan_batches` → `SharedScheduler.run`, each result into the journal → `summarise` →
`Journal.finish`.
"""

from latentmas_ray.driver.batch import Batch, plan_batches
from latentmas_ray.driver.journal import Journal
from latentmas_ray.driver.output import Output, open_output
from latentmas_ray.driver.protocol import Runtime, RuntimeInfo, Ticket
from latentmas_ray.driver.results import (
    AgentUse,
    Answer,
    Failure,
    HandOver,
    KeptMemory,
    Observer,
    Progress,
    SilentObserver,
    Summary,
    Transfer,
)
from latentmas_ray.driver.run import Result, RunRequest
from latentmas_ray.driver.scheduler import Scheduler
from latentmas_ray.driver.settings import DriverSettings
from latentmas_ray.driver.shared import SharedScheduler
from latentmas_ray.driver.summary import summarise
from latentmas_ray.driver.warm_up import WarmUp

__all__ = [
    "AgentUse",
    "Answer",
    "Batch",
    "DriverSettings",
    "Failure",
    "HandOver",
    "Journal",
    "KeptMemory",
    "Observer",
    "Output",
    "Progress",
    "Result",
    "RunRequest",
    "Runtime",
    "RuntimeInfo",
    "Scheduler",
    "SharedScheduler",
    "SilentObserver",
    "Summary",
    "Ticket",
    "Transfer",
    "WarmUp",
    "open_output",
    "plan_batches",
    "summarise",
]
