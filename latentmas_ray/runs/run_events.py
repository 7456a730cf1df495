"""Events of a run, which its observer receives.

The order is `RunStarted`, then all others as they happen, then `RunEnded`. Events are frozen and may be stored. What a
runtime reports to the scheduler is another stream (`scheduler.protocol`); of it, a run's observer receives the
`ClusterEvent`s: replicas and nodes that came or went.
"""

import time
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from latentmas_ray.engine.turn import NewTokens, TurnResult
from latentmas_ray.placement.prediction.run_layout import LayoutSpeed
from latentmas_ray.runs.results import Answer, Failure


@dataclass(frozen=True)
class TurnPlace:
    """Which replica executes a turn, and when it was submitted."""

    replica: str = ""  # the same name for the replica that replaces a lost one; empty without Ray
    nodes: tuple[str, ...] = ()  # of its actors
    submitted_at: float = 0.0  # wall-clock seconds of the driver's machine


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """The runtime has started, and the run starts."""

    description: str  # of the runtime: its actors and where they are
    num_questions: int
    num_done: int  # of these, answered by an earlier run


@dataclass(frozen=True, kw_only=True)
class TurnFinished:
    """An agent has finished its turn over a batch."""

    report: TurnResult
    question_ids: tuple[str, ...] = ()
    place: TurnPlace = TurnPlace()
    seen_at: float = 0.0  # when the driver had the result: wall-clock seconds of its machine


@dataclass(frozen=True, kw_only=True)
class TextWritten:
    """An answering agent has written tokens of a question, in a run that streams it. After a lost turn they come again,
    from the first one on; the answer has all, also those of which no event tells."""

    agent: str
    question_id: str
    new: NewTokens


@dataclass(frozen=True, kw_only=True)
class TurnRepeated:
    """A turn was lost with its actor or with memory that it reads, and is submitted again; after many losses each of
    its questions alone."""

    agent: str
    reason: str
    question_ids: tuple[str, ...] = ()
    place: TurnPlace = TurnPlace()


@dataclass(frozen=True, kw_only=True)
class QuestionAnswered:
    """A question has its answer; the `RunProgress` that follows counts it."""

    answer: Answer


@dataclass(frozen=True, kw_only=True)
class MemoryFinished:
    """A question's working memory is complete, in a run that returns memory instead of answers."""

    question_id: str


@dataclass(frozen=True, kw_only=True)
class QuestionFailed:
    """A question could not be answered."""

    failure: Failure


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """A snapshot of a run, a few times a second."""

    num_questions: int
    num_done: int
    num_failed: int
    batches_in_flight: int
    memory_in_flight_bytes: int  # of existing segments, of all runs
    tokens: int  # prompt, latent and output tokens processed so far in this run, those of unfinished texts included
    seconds: float  # since the run started
    num_writing: int = 0  # questions whose texts grow now; 0 where texts are not reported before they are finished


@dataclass(frozen=True, kw_only=True)
class LayoutMeasured:
    """A run whose layout was searched has answered its first batches: what it reaches, next to what was predicted."""

    speed: LayoutSpeed


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """The run is over, for whatever reason. The last event."""


@dataclass(frozen=True)
class ReplicaReady:
    """A replica of these agents (several if they share an actor) has loaded its model on these nodes."""

    agents: tuple[str, ...]
    nodes: tuple[str, ...]
    replica: str = ""  # its name, as in `TurnPlace`
    at: float = field(default_factory=time.time, compare=False)  # wall-clock seconds of the driver's machine


@dataclass(frozen=True)
class ReplicaLost:
    """A replica of these agents died or was shut down. Its turns follow as `TurnLost`."""

    agents: tuple[str, ...]
    nodes: tuple[str, ...]
    reason: str
    replica: str = ""
    at: float = field(default_factory=time.time, compare=False)  # when the loss was seen


@dataclass(frozen=True)
class ReplicaRetired:
    """A replica of these agents has finished its turns, and was ended on purpose; others do its work."""

    agents: tuple[str, ...]
    nodes: tuple[str, ...]
    reason: str
    replica: str = ""
    at: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True)
class NodeJoined:
    """The cluster has a new node, on which replicas may be added, or one answers again that was lost."""

    node: str
    at: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True)
class NodeLost:
    """A node does not answer any more, for a `reason`. Its replicas are given up where others can do their work. If it
    answers again, `NodeJoined` follows."""

    node: str
    reason: str
    at: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True)
class NodeDraining:
    """A node will be removed soon. Its replicas retire as soon as others are ready elsewhere."""

    node: str
    at: float = field(default_factory=time.time, compare=False)


ClusterEvent = ReplicaReady | ReplicaLost | ReplicaRetired | NodeJoined | NodeLost | NodeDraining
RunEvent = (
    RunStarted
    | TurnFinished
    | TextWritten
    | TurnRepeated
    | QuestionAnswered
    | MemoryFinished
    | QuestionFailed
    | RunProgress
    | ClusterEvent
    | LayoutMeasured
    | RunEnded
)


@runtime_checkable
class Observer(Protocol):
    """Listens to runs: a progress bar, log lines, metrics.

    It is called synchronously, in the thread that executes the current step of the scheduler. An exception that it
    raises ends the run and is raised where the results of that run are fetched; other runs continue."""

    def on_event(self, event: RunEvent) -> None: ...


class Observers:
    """An observer that passes each event to several others, in order."""

    def __init__(self, *observers: Observer | None) -> None:
        """None is left out."""
        self._observers = tuple(one for one in observers if one is not None)

    def on_event(self, event: RunEvent) -> None:
        for observer in self._observers:
            observer.on_event(event)
