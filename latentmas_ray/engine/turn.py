"""The request and the result of one agent's turn over one batch of questions. Plain data: no torch, no Ray.

A *turn* is: absorb the memory that is read, prefill the prompt, then think latently (and hand over a segment) or
decode text. `TurnRequest` is sent to the actor and `TurnResult` back; tensors are sent separately.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from latentmas_ray.authentication import ChunkId
from latentmas_ray.config import ActorLink, CodecName, GuardName, KeepBy, KeepLayers
from latentmas_ray.engine.diagnostics.convergence import ThoughtConvergence
from latentmas_ray.engine.diagnostics.trace import AgentTrace, Alarm, EmbeddingMap
from latentmas_ray.topology.agent import LATENT_PARTS, AgentMemory, HandsOver, Thinks

SentAs = Literal["kv", "recompute"]
# How a reader gets a segment: `translated` are the recompute inputs of an agent with another model.
ReadAs = Literal["kv", "recompute", "translated"]
Link = Literal["same_process", "same_gpu", "same_node", "cross_node"]  # nearest first
# Why a text ended before the model ended it: it has as many tokens as it may, or the model has no further position.
CutOff = Literal["no", "max_new_tokens", "positions"]
PhaseName = Literal["wait", "absorb", "prefill", "think", "decode", "emit"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question's prompt for one agent, before the tokenizer's chat template."""

    messages: tuple[Mapping[str, str], ...]  # {"role": …, "content": …}
    template: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the chat template
    suffix: str = ""  # text after the generation prompt


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Parameters of decoding. Temperature 0 is greedy; every question has its own random stream."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 42


@dataclass(frozen=True, kw_only=True)
class NewTokens:
    """Tokens of one text of a question, as they are written."""

    token_ids: tuple[int, ...]
    first: int  # the index of the first of them in the text
    sample: int = 0  # the number of the text among those of the question


# Gets tokens of a question (by id) while its turn runs; returns whether the question is still wanted.
OnTokens = Callable[[str, NewTokens], bool]

# One chunk of a segment as bytes: its header, and its KV as a flat uint8 array (numpy), as `memory.wire` encodes them.
WireChunk = tuple[bytes, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenMemory:
    """Memory from an earlier run. All questions of a batch read the same."""

    reads: tuple[AgentMemory, ...]
    segments: Mapping[str, WireChunk]  # by agent, each of one question and of the whole model
    recomputed: frozenset[str] = frozenset()  # the agents whose segments have no KV
    texts: Mapping[str, str] = field(default_factory=dict)  # by agent: text for the reader's prompt
    segment_id: str = ""  # begins the names of its segments, once it is sent to other processes
    # Every agent reads it, before the memory of the other agents; else the answering agent reads it instead of theirs.
    is_first: bool = False

    def chunk_id(self, agent: str) -> ChunkId:
        """The name of one agent's segment, once it is sent."""
        return ChunkId(f"{self.segment_id} {agent}")


@dataclass(frozen=True, kw_only=True)
class KeepRule:
    """How an agent chooses the positions of its prompt that it hands over; see `engine.eviction`."""

    share: float  # of the positions, in (0, 1); 1 if a window decides
    by: KeepBy = "prompt"
    layers: KeepLayers = "shared"
    readers: tuple[tuple[Prompt, ...], ...] = ()  # if readers choose: of each, its prompt for every question


@dataclass(frozen=True, kw_only=True)
class TurnRequest:
    """One agent's turn over one batch."""

    agent: str
    batch: int
    question_ids: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    thinks: Thinks
    sampling: Sampling
    latent_steps: int = 0  # at most so many, with `stop_at`
    stop_at: float | None = None  # the cosine of a thought with the one before at which a question stops thinking
    fills_steps: bool = False  # the thoughts that are left are then computed together
    hands_over: HandsOver = "all"
    keep: KeepRule | None = None  # None: all that it hands over
    close_turn: bool = False
    reads: tuple[AgentMemory, ...] = ()
    transfer_mode: SentAs = "kv"  # how its own segment is sent
    recomputed: frozenset[str] = frozenset()  # the agents whose segments arrive as recompute inputs
    # Those of them that have another model, and its name: their inputs are translated first.
    translated: Mapping[str, str] = field(default_factory=dict)
    submitted_at: float = 0.0  # wall-clock seconds on the driver's machine
    is_last: bool = False  # no agent reads this one: it answers
    others_read: bool = False  # if it answers: another answering agent's turn may still read memory of this batch
    traced: frozenset[str] = frozenset()  # the questions to trace
    guard: GuardName = "off"  # the action on thoughts with an alarm
    keeps_memory: bool = False  # its result also holds its segment
    given: GivenMemory | None = None  # the memory that `reads` names, if it is sent with the request
    read_by: tuple[str, ...] = ()  # the agents that read its segment
    sent_over: frozenset[ActorLink] | None = None  # the links to those agents' actors; None: any
    segment_id: str = ""  # the name of its own segment, which no other segment of the run has
    read_ids: Mapping[str, str] = field(default_factory=dict)  # by agent: the names of the segments that it must read
    # Questions whose text nobody needs, as they have their answer: an actor that writes questions on their own leaves
    # them out (their values in the result are empty), any other may write them.
    skipped: frozenset[str] = frozenset()
    # Of a text agent that writes question by question: it starts none of this turn while so many are being written.
    # None, or more than its engine can write at the same time: that is the bound.
    decode_batch: int | None = None
    # Texts that a text agent writes for each question; they share its memory and its prompt. Text i draws from the
    # random stream of `seeds.sample_seed(sampling.seed, i)`.
    samples: int = 1
    stop: tuple[str, ...] = ()  # a text ends with the token that completes one of these, and has it
    streamed: frozenset[str] = frozenset()  # questions whose tokens are reported as they are written

    @property
    def can_overlap(self) -> bool:
        """Whether a part of its segment is final while the agent still thinks. With a guard that may change the
        segment, or a choice by the thoughts, nothing is final before all thoughts."""
        if self.guard in ("drop", "text") or (self.keep is not None and self.keep.by == "thoughts"):
            return False
        return self.thinks == "latent" and self.latent_steps > 0 and self.hands_over not in LATENT_PARTS

    @property
    def needs_parts(self) -> str:
        """What of this turn takes its memory apart, which layers with states do not allow; empty if nothing does."""
        parts = {
            "a part of a turn": self.hands_over != "all" or self.keep is not None,
            "a guard that drops thoughts": self.guard in ("drop", "text"),
            "thoughts that are computed together": self.fills_steps,
            "a trace": bool(self.traced),
        }
        return next((part for part, is_asked in parts.items() if is_asked), "")

    @property
    def may_end_early(self) -> bool:
        """Whether questions may hand over fewer thoughts than `latent_steps`."""
        return self.stop_at is not None and not self.fills_steps

    def segment_order(self) -> tuple[str, ...]:
        """The agents whose segments come from other turns, each once, in the order of the arguments."""
        given = () if self.given is None else self.given.reads
        known = {name for memory in given for name in memory.agents()}
        names = dict.fromkeys(name for memory in self.reads for name in memory.agents())
        return tuple(name for name in names if name not in known)


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Wall-clock seconds of the parts of a turn, for the whole batch."""

    wait: float = 0.0  # for memory that had not arrived when the turn began
    absorb: float = 0.0
    prefill: float = 0.0
    think: float = 0.0
    decode: float = 0.0
    emit: float = 0.0

    @property
    def total(self) -> float:
        return self.wait + self.absorb + self.prefill + self.think + self.decode + self.emit


@dataclass(frozen=True, kw_only=True)
class PhaseSpan:
    """A stretch of time in which a turn was in one phase, in wall-clock seconds of the machine that computed it."""

    phase: PhaseName
    begin: float
    end: float


@dataclass(frozen=True, kw_only=True)
class SegmentRead:
    """One transfer: a segment that this turn read."""

    source: str  # the agent that wrote it
    num_bytes: int  # of KV as it was sent, or of recompute inputs
    transport: str
    seconds: float  # until it was absorbed, without waiting for its computation: see `engine.timing.exposed_time`
    exposed_seconds: float = 0.0  # the part of them that did not overlap with computation
    transfer_mode: ReadAs = "kv"
    codec: CodecName = "none"
    relative_error: float = 0.0  # RMS error of a lossy codec, maximum over chunks
    link: Link = "same_process"
    moved_bytes: int = 0  # that were sent to the reader's node for this reader


@dataclass(frozen=True, kw_only=True)
class SampleText:
    """One of several texts that an agent has written for one question."""

    token_ids: tuple[int, ...]  # without the end-of-turn token
    text: str
    cut_off: CutOff = "no"


@dataclass(frozen=True, kw_only=True)
class TurnResult:
    """The result of a turn. Values per question are in the order of `TurnRequest.question_ids`."""

    agent: str
    prompt_tokens: tuple[int, ...]
    latent_steps: int = 0  # of the question with the most
    convergence: tuple[ThoughtConvergence, ...] = ()  # of a latent agent's thoughts, per question
    output_token_ids: tuple[tuple[int, ...], ...] = ()  # without the end-of-turn token
    texts: tuple[str, ...] = ()
    cut_off: tuple[CutOff, ...] = ()  # like `output_token_ids`
    # Per question, with `TurnRequest.samples` above 1: all of its texts, in order. The three fields above then have the
    # first of them.
    samples: tuple[tuple[SampleText, ...], ...] = ()
    phases: Phases = field(default_factory=Phases)
    # Per question, if the questions did not have to wait for one another: its share of each step. `phases` is the sum.
    question_phases: tuple[Phases, ...] = ()
    spans: tuple[PhaseSpan, ...] = ()  # of the whole batch, in the order of time
    # Per question, if the questions did not have to wait for one another: from its first step to its last one. Other
    # questions are written at the same time, so they are longer than its `question_phases`.
    question_spans: tuple[tuple[PhaseSpan, ...], ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)  # by question that could not be written: why, in one line
    segment_bytes: tuple[
        int, ...
    ] = ()  # of KV, or of the recompute inputs, handed over per question; empty for a text agent
    evicted_bytes: tuple[int, ...] = ()  # of KV per question that is not handed over, if only a share is kept
    memory_tokens: tuple[int, ...] = ()  # tokens in cache at the end of the turn, per question
    reads: tuple[SegmentRead, ...] = ()
    traces: Mapping[str, AgentTrace] = field(default_factory=dict)  # by traced question
    embeddings: EmbeddingMap | None = None  # the map of traced thoughts; only from the last turn over a batch
    trace_seconds: float = 0.0  # for the whole batch: for traces and the guard, in no phase
    alarms: tuple[tuple[Alarm, ...], ...] = ()  # per question, if a guard was on
    fallbacks: Mapping[str, str] = field(default_factory=dict)  # by question: what it wrote instead of handing over
    kept: tuple[WireChunk, ...] = ()  # the chunks of its segment from all ranks, with `keeps_memory`

    def num_written(self, question: int) -> int:
        """The tokens of all texts of a question."""
        if self.samples:
            return sum(len(one.token_ids) for one in self.samples[question])
        return len(self.output_token_ids[question]) if self.output_token_ids else 0

    @property
    def total_written(self) -> int:
        """The tokens of all texts of all questions."""
        return sum(map(self.num_written, range(len(self.output_token_ids))))

    def texts_of(self, question: int) -> tuple[SampleText, ...]:
        """All texts of a question; empty for a latent agent."""
        if self.samples:
            return self.samples[question]
        if not self.texts:
            return ()
        cut_off = self.cut_off[question] if self.cut_off else "no"
        return (
            SampleText(token_ids=tuple(self.output_token_ids[question]), text=self.texts[question], cut_off=cut_off),
        )

    def steps_of(self, question: int) -> int:
        """The latent steps of a question."""
        return self.convergence[question].steps if self.convergence else self.latent_steps

    @property
    def total_steps(self) -> int:
        """The latent steps of all questions."""
        if not self.convergence:
            return self.latent_steps * len(self.prompt_tokens)
        return sum(one.steps for one in self.convergence)
