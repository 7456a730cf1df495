"""The results of a run: one `Answer` per question (a line of results.jsonl), `Failure`s and the `Summary`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, get_args

from pydantic import AllowInfNan, ConfigDict, TypeAdapter

from latentmas_ray.config import current_transfer, describe_models
from latentmas_ray.engine.diagnostics.convergence import ConvergenceStats, ThoughtConvergence
from latentmas_ray.engine.diagnostics.trace import Alarm
from latentmas_ray.engine.turn import CutOff, WireChunk
from latentmas_ray.placement.prediction.run_layout import LayoutSpeed
from latentmas_ray.runs.controls.adoption import Adoption, AdoptionFigures
from latentmas_ray.runs.decisions.figures import VoteFigures
from latentmas_ray.runs.decisions.votes import AnswerVote, RowDecision, votes_of_row, votes_row
from latentmas_ray.runs.hints.rows import HintUse, hint_of_row
from latentmas_ray.runs.hints.scores import HintFigures
from latentmas_ray.runs.traces import Trace
from latentmas_ray.tasks.question import NumberSource
from latentmas_ray.topology.agent import AgentMemory

if TYPE_CHECKING:
    from latentmas_ray.memory import Memory

_FINITE = ConfigDict(allow_inf_nan=False)  # for what is read from files
_AnyFloat = Annotated[float, AllowInfNan(True)]


@dataclass(frozen=True, kw_only=True)
class AgentUse:
    """The resources that one agent used on one question. Seconds are those of the question's whole batch, or with
    `has_own_seconds` the question's share of each step of an agent that writes every question for itself."""

    __pydantic_config__: ClassVar[ConfigDict] = _FINITE

    prompt_tokens: int
    latent_steps: int
    output_tokens: int
    memory_bytes: int  # KV that the agent handed over for this question
    evicted_bytes: int = 0  # KV that it did not hand over, if only a share of its prompt's positions is kept
    seconds: Mapping[str, float]  # wait, absorb, prefill, think, decode, emit
    # The text of a text agent, or the fallback text of a latent one; None for the answering agent, see `Answer.answer`.
    text: str | None = None
    alarms: tuple[Alarm, ...] = ()  # the first one of each kind; empty without a guard
    cut_off: CutOff | None = None  # why its text ended early; "no" if it did not; None in rows of older versions
    has_own_seconds: bool = False
    convergence: ThoughtConvergence | None = None  # of its thoughts; None for text, and in rows of older versions

    @property
    def is_cut_off(self) -> bool:
        """Whether its text ended before the model had ended it."""
        return self.cut_off not in (None, "no")


class Transfer(NamedTuple):
    """One segment read by one agent; bytes are this question's share, seconds those of the whole batch.

    A tuple, since a run makes one for every question and every segment that is read: they are most of its objects.
    """

    source: str
    reader: str
    num_bytes: int
    transport: str
    seconds: float
    exposed_seconds: float = 0.0  # not hidden by computation
    mode: str = "kv"  # kv, recompute, or translated: recompute inputs of an agent with another model
    codec: str = "none"
    relative_error: _AnyFloat = 0.0  # of KV that went through a lossy codec
    link: str = "same_process"
    moved_bytes: int = 0  # less than `num_bytes` if the reader's node already had the segment


@dataclass(frozen=True, kw_only=True, eq=False)
class ReturnedMemory:
    """The memory that the answering agent reads on one question, as bytes; `memory` decodes it to tensors."""

    id: str
    question: str
    model: str
    index: int  # of the question in its batch
    reads: tuple[AgentMemory, ...]
    chunks: Mapping[str, Sequence[WireChunk]]  # by agent, of the whole batch and of every rank
    texts: Mapping[str, str]  # by agent: the texts in the answering agent's prompt

    def memory(self) -> "Memory":
        """Return it as a `Memory`."""
        from latentmas_ray.memory import Memory  # imports torch, which other callers do not need

        named = {"model": self.model, "question": self.question, "reads": self.reads, "texts": self.texts}
        return Memory.from_wire(self.chunks, self.index, checks_digest=False, **named)


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
    batch_size: int | None = None  # questions in its batch; None in rows of older versions
    numbers_from: NumberSource | None = None  # whose numbers it has; None without notes that say so (task `facts`)
    adoption: Adoption | None = None  # what became of what one agent was told wrongly (memory corrupted)
    votes: tuple[AnswerVote, ...] = ()  # all answers to the question, if it has several; one of them is `answer`
    decision: RowDecision | None = None  # how that was chosen
    hint: HintUse | None = None  # the hint that it was written with, in a run with hints
    trace: Trace | None = field(default=None, compare=False)  # if it was traced; stored in traces.jsonl
    returned_memory: ReturnedMemory | None = field(
        default=None, compare=False, repr=False
    )  # what the answering agent read, if the call asked for it

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
        """Prompt tokens, latent steps and output tokens of all agents: the number of computed positions."""
        return self.prompt_tokens + self.latent_tokens + self.output_tokens

    @property
    def memory_bytes(self) -> int:
        """KV handed over for this question, by all agents together."""
        return sum(use.memory_bytes for use in self.agents.values())

    @property
    def evicted_bytes(self) -> int:
        """KV that was not handed over for this question, by all agents together."""
        return sum(use.evicted_bytes for use in self.agents.values())

    @property
    def is_cut_off(self) -> bool:
        """Whether the text of any agent ended before the model had ended it."""
        return any(use.is_cut_off for use in self.agents.values())

    def to_row(self) -> dict[str, Any]:
        """The object of one line of results.jsonl."""
        cut_off = {name: use.cut_off for name, use in self.agents.items() if use.cut_off is not None}
        own_seconds = [name for name, use in self.agents.items() if use.has_own_seconds]
        convergence = {
            name: use.convergence.to_row()
            for name, use in self.agents.items()
            if use.convergence is not None and use.latent_steps
        }
        evicted = {name: use.evicted_bytes for name, use in self.agents.items() if use.evicted_bytes}
        alarms = {name: [asdict(alarm) for alarm in use.alarms] for name, use in self.agents.items() if use.alarms}
        return {
            "id": self.id,
            "question": self.question,
            "gold": self.gold,
            "answer": self.answer,
            "answer_token_ids": list(self.answer_token_ids),
            "prediction": self.prediction,
            "correct": self.correct,
            **({} if self.numbers_from is None else {"numbers_from": self.numbers_from}),  # only where notes say so
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
            **({"own_seconds": own_seconds} if own_seconds else {}),  # the agents whose seconds are not the batch's
            "memory_bytes": self.memory_bytes,
            "agent_memory_bytes": {name: use.memory_bytes for name, use in self.agents.items()},
            **({"agent_evicted_bytes": evicted} if evicted else {}),  # not in rows of runs that keep everything
            "texts": {name: use.text for name, use in self.agents.items() if use.text is not None},
            "transfers": [transfer._asdict() for transfer in self.transfers],
            **({} if self.batch_size is None else {"batch_size": self.batch_size}),
            **({"cut_off": cut_off} if cut_off else {}),  # not in rows of older versions
            **({"convergence": convergence} if convergence else {}),  # not in rows of older versions
            **votes_row(self.votes, self.decision),  # with several answers
            **({} if self.adoption is None else {"adoption": asdict(self.adoption)}),  # with memory corrupted
            **({} if self.hint is None else {"hint": self.hint.to_row()}),  # in a run with hints
            **({"alarms": alarms} if alarms else {}),  # rows of runs without a guard have no such key
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Answer":
        """The inverse of `to_row`. Raises KeyError, TypeError, AttributeError or ValueError for a row of another
        form."""
        agents = {
            name: {
                "prompt_tokens": tokens["prompt"],
                "latent_steps": tokens["latent"],
                "output_tokens": tokens["output"],
                "memory_bytes": row["agent_memory_bytes"][name],
                "evicted_bytes": row.get("agent_evicted_bytes", {}).get(name, 0),
                "seconds": row["agent_seconds"][name],
                "text": row["texts"].get(name),
                "alarms": tuple(asdict(Alarm(**alarm)) for alarm in row.get("alarms", {}).get(name, ())),
                "cut_off": _one_of(CutOff, row.get("cut_off", {}).get(name), "cut_off"),
                "has_own_seconds": name in row.get("own_seconds", ()),
                "convergence": _convergence(row.get("convergence", {}).get(name), tokens["latent"]),
            }
            for name, tokens in row["tokens"]["agents"].items()
        }
        transfers = tuple(Transfer(**current_transfer(transfer))._asdict() for transfer in row["transfers"])
        votes, decision = votes_of_row(row)
        plain = {key: row[key] for key in ("id", "question", "gold", "answer", "prediction", "correct", "seconds")}
        return cls(
            **plain,
            answer_token_ids=tuple(row["answer_token_ids"]),
            agents=_AGENTS.validate_python(agents),
            transfers=_TRANSFERS.validate_python(transfers),
            batch_size=row.get("batch_size"),
            votes=votes,
            decision=decision,
            numbers_from=_one_of(NumberSource, row.get("numbers_from"), "numbers_from"),
            adoption=None if row.get("adoption") is None else _ADOPTION.validate_python(row["adoption"]),
            hint=hint_of_row(row.get("hint")),
        )


def _convergence(value: Mapping[str, Any] | None, steps: int) -> dict[str, Any] | None:
    """Return the fields of a row's `ThoughtConvergence`."""
    if value is None:
        return None
    return {
        "thoughts": value.get("thoughts", steps),
        "steps": steps,
        "allowed_steps": value.get("allowed_steps"),
        "short_cosines": tuple(value["cosines"]),
    }


def _one_of(literal: Any, value: object, key: str) -> Any:
    """Return the value of a row, None or one that the Literal has. Raises ValueError for any other."""
    if value is None or value in get_args(literal):
        return value
    raise ValueError(f"{key} must be one of {', '.join(get_args(literal))}")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A question that could not be answered. It is not in results.jsonl, so a resumed run tries it again."""

    id: str
    agent: str
    error: str
    too_long: bool = False  # it needs more positions than the model has: another try ends alike

    def to_row(self) -> dict[str, Any]:
        """The object of one line of failures.jsonl."""
        row = asdict(self)
        return row if self.too_long else {key: row[key] for key in row if key != "too_long"}


@dataclass(frozen=True, kw_only=True)
class TransferStats:
    """The transfers from one agent to another: means over the questions."""

    __pydantic_config__: ClassVar[ConfigDict] = _FINITE

    source: str
    reader: str
    transports: tuple[str, ...]
    links: tuple[str, ...]
    num_bytes: float  # per question, as sent
    moved_bytes: float  # per question: the part of them that was moved to the reader's node
    transfer_seconds: float  # of the whole batch
    exposed_seconds: float  # of the whole batch: not hidden by computation
    transfer_seconds_per_question: float | None = None  # the batch's seconds divided by its number of questions
    exposed_seconds_per_question: float | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The summary of a whole run; `summary.json` is its `to_json`. None means unknown."""

    __pydantic_config__: ClassVar[ConfigDict] = _FINITE

    method: str
    topology: str
    model: str
    num_questions: int
    num_failed: int
    models: Mapping[str, str] = field(default_factory=dict)  # of agents that have another model
    memory: str = "matched"  # or the control that was run
    accuracy: float | None  # fraction of the graded questions; None if nothing could be graded
    accuracy_interval: tuple[float, float] | None = None  # 95 %, see `stats.accuracy_interval`
    numbers_from: Mapping[str, int] = field(default_factory=dict)  # answers by whose numbers they have, where known
    prompt_tokens_per_question: float
    latent_steps_per_question: float
    output_tokens_per_question: float
    memory_bytes_per_question: float
    keep: float = 1.0  # share of the prompts' positions, of agents that do not set their own
    keep_by: str = "prompt"
    evicted_bytes_per_question: float = 0.0  # KV that was not handed over
    moved_bytes: int  # of all transfers
    exposed_seconds: float = 0.0  # mean per transfer: how long the reader waited after all memory was final
    adoption: AdoptionFigures | None = None  # with memory corrupted
    hints: HintFigures | None = None  # of a run with hints
    codec: str = "none"
    relative_error: _AnyFloat = 0.0  # of KV that went through a lossy codec: RMS, of the worst transfer
    seconds: float  # wall clock of answering since the last start, without loading the models
    questions_per_second: float  # of the questions answered in these seconds
    num_resumed: int | None = None  # answered before this start; not part of the seconds and rates
    warm_up_seconds: float | None = None  # of `seconds`, until the first batches were answered, one for each replica
    seconds_after_warm_up: float | None = None  # None if no question followed the warm-up
    questions_per_second_after_warm_up: float | None = None
    agents: Mapping[str, Mapping[str, float]]  # means per question, named in `runs.accounting`
    hand_overs: tuple[TransferStats, ...] = ()
    num_alarmed: int = 0  # questions with an alarm, if a guard was on
    alarms: Mapping[str, int] = field(default_factory=dict)  # the same by agent
    convergence: Mapping[str, ConvergenceStats] = field(default_factory=dict)  # of the thoughts, by agent
    num_cut_off: int | None = None  # questions with a text that ended early; None if no row says so (older versions)
    cut_off: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # the same by agent, and by reason
    made_with: Mapping[str, str] = field(default_factory=dict)  # versions and devices, see `runs.environment`
    votes: VoteFigures | None = None  # with several answers to a question
    layout_speed: LayoutSpeed | None = None  # with `replicas auto`: predicted and reached, after the warm-up

    @property
    def model_names(self) -> str:
        """All models of the run in one text."""
        return describe_models(self.model, self.models)

    def to_json(self) -> dict[str, Any]:
        """The object of summary.json."""
        row = asdict(self)
        return {
            **row,
            "convergence": {
                name: {**stats, "mean_cosines": [*stats["mean_cosines"]]} for name, stats in row["convergence"].items()
            },
            "hand_overs": [
                {**one, "transports": [*one["transports"]], "links": [*one["links"]]} for one in row["hand_overs"]
            ],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Summary":
        """The inverse of `to_json`; fields that an older version did not write are None or empty. Raises TypeError or
        ValueError for an object of another form."""
        interval = row.get("accuracy_interval")
        hand_overs = tuple(
            TransferStats(**{**found, "transports": tuple(found["transports"]), "links": tuple(found["links"])})
            for found in row.get("hand_overs", ())
        )
        summary = cls(
            **{**row, "accuracy_interval": None if interval is None else tuple(interval), "hand_overs": hand_overs}
        )
        return _SUMMARY.validate_python(asdict(summary))


# They check the content of files; what is made here needs no checks.
_SUMMARY = TypeAdapter(Summary)
_AGENTS = TypeAdapter(dict[str, AgentUse])
_ADOPTION = TypeAdapter(Adoption)
_TRANSFERS = TypeAdapter(tuple[Transfer, ...], config=_FINITE)


def mean_or_zero(values: Sequence[float]) -> float:
    """Return the mean, or 0 without values."""
    return fmean(values) if values else 0.0
