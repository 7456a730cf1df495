"""The rows of timeline.jsonl. All times are wall-clock seconds: `spans` by the clock of the machine that computed them,
all others by the driver's."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from latentmas_ray.engine.turn import Link, PhaseName, PhaseSpan
from latentmas_ray.runs.run_events import (
    ClusterEvent,
    NodeDraining,
    NodeJoined,
    NodeLost,
    ReplicaLost,
    ReplicaReady,
    ReplicaRetired,
    TurnFinished,
    TurnRepeated,
)

_FORM = ConfigDict(allow_inf_nan=False, extra="ignore")
_DIGITS = 6  # of seconds
# No run writes others, and pictures of them would have no scale.
Time = Annotated[float, Field(ge=0, le=1e11)]
Count = Annotated[int, Field(ge=0, le=10**15)]
SpanRow = tuple[PhaseName, Time, Time]  # the phase, its begin and its end


@dataclass(frozen=True, kw_only=True)
class StartRow:
    """The run was started, or started again."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORM

    event: Literal["start"] = "start"
    at: Time
    description: str = ""  # of the runtime
    num_questions: Count = 0
    num_done: Count = 0  # of these, by earlier starts


@dataclass(frozen=True, kw_only=True)
class ReadRow:
    """A segment that a turn read."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORM

    source: str
    num_bytes: Count
    moved_bytes: Count = 0
    transport: str = ""
    link: Link = "same_process"
    codec: str = "none"
    seconds: Time = 0.0
    exposed_seconds: Time = 0.0


@dataclass(frozen=True, kw_only=True)
class TurnRow:
    """A turn that finished. `question_spans` are in the order of `questions`, if the agent writes every question for
    itself; else empty."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORM

    event: Literal["turn"] = "turn"
    agent: str
    replica: str = ""
    nodes: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    submitted_at: Time
    seen_at: Time  # when the driver had the result
    spans: tuple[SpanRow, ...] = ()
    question_spans: tuple[tuple[SpanRow, ...], ...] = ()
    reads: tuple[ReadRow, ...] = ()
    prompt_tokens: Count = 0
    latent_steps: Count = 0
    output_tokens: Count = 0


@dataclass(frozen=True, kw_only=True)
class LostTurnRow:
    """A turn that was lost and is submitted again."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORM

    event: Literal["lost_turn"] = "lost_turn"
    at: Time
    agent: str
    reason: str = ""
    replica: str = ""
    questions: tuple[str, ...] = ()
    submitted_at: Time = 0.0


@dataclass(frozen=True, kw_only=True)
class ReplicaRow:
    """A replica has loaded its model, was lost, or has ended on purpose."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORM

    event: Literal["replica_ready", "replica_lost", "replica_retired"]
    at: Time
    replica: str = ""
    agents: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeRow:
    """A node has joined the cluster, does not answer any more, or will leave it."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORM

    event: Literal["node_joined", "node_lost", "node_draining"]
    at: Time
    node: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class QuestionRow:
    """A question has its answer, or failed for good."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORM

    event: Literal["answered", "failed"]
    at: Time
    question: str
    seconds: Time | None = None  # since its batch was admitted
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class EndRow:
    """The start is over, for whatever reason but a kill."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORM

    event: Literal["end"] = "end"
    at: Time


Row = StartRow | TurnRow | LostTurnRow | ReplicaRow | NodeRow | QuestionRow | EndRow
ROW: TypeAdapter[Row] = TypeAdapter(Annotated[Row, Field(discriminator="event")])


def turn_row(event: TurnFinished) -> dict[str, Any]:
    """Return the row of a `TurnRow`, made by hand: it is the one row that is written often."""
    result = event.report
    return {
        "event": "turn",
        "agent": result.agent,
        "replica": event.place.replica,
        "nodes": list(dict.fromkeys(event.place.nodes)),
        "questions": list(event.question_ids),
        "submitted_at": round(event.place.submitted_at, _DIGITS),
        "seen_at": round(event.seen_at, _DIGITS),
        "spans": _span_rows(result.spans),
        **({"question_spans": [_span_rows(spans) for spans in result.question_spans]} if result.question_spans else {}),
        "reads": [
            {
                "source": read.source,
                "num_bytes": read.num_bytes,
                "moved_bytes": read.moved_bytes,
                "transport": read.transport,
                "link": read.link,
                "codec": read.codec,
                "seconds": round(read.seconds, _DIGITS),
                "exposed_seconds": round(read.exposed_seconds, _DIGITS),
            }
            for read in result.reads
        ],
        "prompt_tokens": sum(result.prompt_tokens),
        "latent_steps": result.latent_steps,
        "output_tokens": result.total_written,
    }


def lost_turn_row(event: TurnRepeated, at: float) -> LostTurnRow:
    """Return the row of a turn that was found to be lost at a time."""
    return LostTurnRow(
        at=at,
        agent=event.agent,
        reason=event.reason,
        replica=event.place.replica,
        questions=event.question_ids,
        submitted_at=event.place.submitted_at,
    )


def cluster_row(event: ClusterEvent) -> ReplicaRow | NodeRow:
    """Return the row of a replica or node that came or went. Its fields are those of the event."""
    match event:
        case ReplicaReady():
            return ReplicaRow(event="replica_ready", **vars(event))
        case ReplicaLost():
            return ReplicaRow(event="replica_lost", **vars(event))
        case ReplicaRetired():
            return ReplicaRow(event="replica_retired", **vars(event))
        case NodeJoined():
            return NodeRow(event="node_joined", **vars(event))
        case NodeLost():
            return NodeRow(event="node_lost", **vars(event))
        case NodeDraining():
            return NodeRow(event="node_draining", **vars(event))


def _span_rows(spans: tuple[PhaseSpan, ...]) -> list[SpanRow]:
    # A clock that was put back may have ended a phase before it began.
    return [(span.phase, round(span.begin, _DIGITS), round(max(span.begin, span.end), _DIGITS)) for span in spans]
