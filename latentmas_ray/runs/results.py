"""What comes out of a run: one `Answer` a question (a line of results.jsonl), `Failure`s and the summary."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from latentmas_ray.config import current_transfer
from latentmas_ray.runs.traces import Trace
from latentmas_ray.engine.diagnostics.trace import Alarm
from latentmas_ray.engine.turn import WireChunk
from latentmas_ray.topology.agent import AgentMemory

if TYPE_CHECKING:
    from latentmas_ray.memory import Memory


@dataclass(frozen=True, kw_only=True)
class AgentUse:
    """What one agent spent on one question. Seconds are those of the whole batch the question was in."""

    prompt_tokens: int
    latent_steps: int
    output_tokens: int
    memory_bytes: int  # KV that the agent handed over for this question
    seconds: Mapping[str, float]  # wait, absorb, prefill, think, decode, emit
    # What a text agent wrote, or one that a guard had write (the answering agent's text is the answer).
    text: str | None = None
    alarms: tuple[Alarm, ...] = ()  # the first of each kind, if a guard was on


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One segment read by one agent; bytes are this question's share, seconds those of the whole batch."""

    source: str
    reader: str
    num_bytes: int
    transport: str
    seconds: float
    exposed_seconds: float = 0.0  # what no computation hid
    mode: str = "kv"  # kv or recompute
    codec: str = "none"
    relative_error: float = 0.0  # of KV that went through a lossy codec
    link: str = "same_process"
    moved_bytes: int = 0  # less than `num_bytes` where the reader's node held the segment already


@dataclass(frozen=True, kw_only=True, eq=False)
class ReturnedMemory:
    """What the answering agent reads on one question, as bytes: `memory.Memory.from_wire` makes tensors of it."""

    id: str
    question: str
    model: str
    index: int  # of the question in its batch
    reads: tuple[AgentMemory, ...]
    pieces: Mapping[str, Sequence[WireChunk]]  # by agent, of the whole batch and of every rank
    texts: Mapping[str, str]  # by agent: what stands in the answering agent's prompt

    def memory(self) -> "Memory":
        """The same as an object of its own."""
        from latentmas_ray.memory import Memory  # needs torch, which only those pay for who want it

        named = {"model": self.model, "question": self.question, "reads": self.reads, "texts": self.texts}
        return Memory.from_wire(self.pieces, self.index, checks_digest=False, **named)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One finished question."""

    id: str
    question: str
    gold: str | None
    answer: str
    answer_token_ids: tuple[int, ...]
    prediction: str | None
    correct: bool | None
    seconds: float  # wall clock from the admission of the question's batch to its answer
    agents: Mapping[str, AgentUse] = field(default_factory=dict)
    transfers: tuple[Transfer, ...] = ()
    batch_size: int | None = None  # questions in its batch; None in rows of a version that did not tell
    trace: Trace | None = field(default=None, compare=False)  # if one was wanted; it has a file of its own
    returned_memory: ReturnedMemory | None = field(
        default=None, compare=False, repr=False
    )  # what it was made from, if that was wanted

    @cached_property
    def memory(self) -> "Memory | None":
        """The working memory that the answering agent read, if the call asked for it (`keep_memory=True`)."""
        return None if self.returned_memory is None else self.returned_memory.memory()

    @property
    def prompt_tokens(self) -> int:
        return sum(use.prompt_tokens for use in self.agents.values())

    @property
    def latent_tokens(self) -> int:
        return sum(use.latent_steps for use in self.agents.values())

    @property
    def output_tokens(self) -> int:
        return sum(use.output_tokens for use in self.agents.values())

    @property
    def total_tokens(self) -> int:
        """Prompt tokens, latent steps and output tokens of all agents: the positions that were computed."""
        return self.prompt_tokens + self.latent_tokens + self.output_tokens

    @property
    def memory_bytes(self) -> int:
        """KV handed over for this question, by all agents together."""
        return sum(use.memory_bytes for use in self.agents.values())

    def to_row(self) -> dict[str, Any]:
        """The object of one line of results.jsonl."""
        alarms = {name: [asdict(alarm) for alarm in use.alarms] for name, use in self.agents.items() if use.alarms}
        return {
            "id": self.id,
            "question": self.question,
            "gold": self.gold,
            "answer": self.answer,
            "answer_token_ids": list(self.answer_token_ids),
            "prediction": self.prediction,
            "correct": self.correct,
            "tokens": {
                "prompt": self.prompt_tokens,
                "latent": self.latent_tokens,
                "output": self.output_tokens,
                "agents": {
                    name: {"prompt": use.prompt_tokens, "latent": use.latent_steps, "output": use.output_tokens}
                    for name, use in self.agents.items()
                },
            },
            "seconds": self.seconds,
            "agent_seconds": {name: dict(use.seconds) for name, use in self.agents.items()},
            "memory_bytes": self.memory_bytes,
            "agent_memory_bytes": {name: use.memory_bytes for name, use in self.agents.items()},
            "texts": {name: use.text for name, use in self.agents.items() if use.text is not None},
            "transfers": [asdict(transfer) for transfer in self.transfers],
            **({} if self.batch_size is None else {"batch_size": self.batch_size}),
            **({"alarms": alarms} if alarms else {}),  # rows of runs without a guard stay as they were
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Answer":
        """The inverse of `to_row`. Raises KeyError or TypeError for a row of another form."""
        agents = {
            name: AgentUse(
                prompt_tokens=tokens["prompt"],
                latent_steps=tokens["latent"],
                output_tokens=tokens["output"],
                memory_bytes=row["agent_memory_bytes"][name],
                seconds=row["agent_seconds"][name],
                text=row["texts"].get(name),
                alarms=tuple(Alarm(**alarm) for alarm in row.get("alarms", {}).get(name, ())),
            )
            for name, tokens in row["tokens"]["agents"].items()
        }
        plain = {key: row[key] for key in ("id", "question", "gold", "answer", "prediction", "correct", "seconds")}
        return cls(
            **plain,
            answer_token_ids=tuple(row["answer_token_ids"]),
            agents=agents,
            transfers=tuple(Transfer(**current_transfer(transfer)) for transfer in row["transfers"]),
            batch_size=row.get("batch_size"),
        )


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A question that could not be answered. It is not in results.jsonl, so a resumed run tries it again."""

    id: str
    agent: str
    error: str


@dataclass(frozen=True, kw_only=True)
class TransferStats:
    """What one agent read of another's memory: means over the questions."""

    source: str
    reader: str
    transports: tuple[str, ...]
    links: tuple[str, ...]
    num_bytes: float  # a question, as they were sent
    moved_bytes: float  # a question, of them those that had to come to the reader's node
    transfer_seconds: float  # of the whole batch
    exposed_seconds: float  # of the whole batch: what no computation hid
    transfer_seconds_per_question: float | None = None  # the batch's, shared evenly by its questions
    exposed_seconds_per_question: float | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of a whole run; `summary.json` is its `to_json`. What is None is not known."""

    method: str
    topology: str
    model: str
    num_questions: int
    num_failed: int
    memory: str = "matched"  # or the control that was run
    accuracy: float | None  # fraction of the graded questions; None where nothing could be graded
    accuracy_interval: tuple[float, float] | None = None  # 95 %, as `stats.accuracy_interval` says
    prompt_tokens_per_question: float
    latent_steps_per_question: float
    output_tokens_per_question: float
    memory_bytes_per_question: float
    moved_bytes: int  # by all transfers together
    exposed_seconds: float = 0.0  # mean per hand-over: how long it kept its reader waiting after all memory was final
    codec: str = "none"
    relative_error: float = 0.0  # of KV that went through a lossy codec: RMS, the worst hand-over's
    seconds: float  # wall clock of answering since the last start or resumption; loading the models is not in it
    questions_per_second: float  # of the questions answered in these seconds
    num_resumed: int | None = None  # answered before this start, which the seconds here and per second leave out
    warm_up_seconds: float | None = None  # of `seconds`, until the first batches were answered, one for each replica
    seconds_after_warm_up: float | None = None  # None where no question was left for them
    questions_per_second_after_warm_up: float | None = None
    agents: Mapping[str, Mapping[str, float]]  # means per question, as `driver.accounting` names them
    hand_overs: tuple[TransferStats, ...] = ()
    num_alarmed: int = 0  # questions with an alarm, if a guard was on
    alarms: Mapping[str, int] = field(default_factory=dict)  # … by the agent whose thoughts it is about
    made_with: Mapping[str, str] = field(default_factory=dict)  # versions and devices, as `driver.made_with` names them

    def to_json(self) -> dict[str, Any]:
        """The object of summary.json."""
        row = asdict(self)
        return {
            **row,
            "hand_overs": [
                {**one, "transports": [*one["transports"]], "links": [*one["links"]]} for one in row["hand_overs"]
            ],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Summary":
        """The inverse of `to_json`; what an older version did not write is None or empty. Raises TypeError or
        ValueError for an object of another form."""
        interval = row.get("accuracy_interval")
        hand_overs = tuple(
            TransferStats(**{**found, "transports": tuple(found["transports"]), "links": tuple(found["links"])})
            for found in row.get("hand_overs", ())
        )
        summary = cls(
            **{**row, "accuracy_interval": None if interval is None else tuple(interval), "hand_overs": hand_overs}
        )
        _SUMMARY.validate_python(asdict(summary))
        return summary


_SUMMARY = TypeAdapter(Summary)  # checks what stands in a file; summaries of ours need no checks


def mean_or_zero(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
