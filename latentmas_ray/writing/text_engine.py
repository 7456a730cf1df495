"""The interface of an engine that writes texts, and its requests and outputs.

Two engines implement it: our own (`writing.continuous`) and vLLM (`vllm.engine`). `writing.writer` calls them. A
question starts as soon as the engine has room for it and leaves when it has ended, whatever the others do.

Dimensions: L layers, C 2 (key, value), H KV heads of a part, T its tokens, D head dim.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from latentmas_ray.engine.turn import Sampling
from latentmas_ray.memory import KVCacheSpec, RecomputeInputs
from latentmas_ray.models.chat import ChatTokenizer

# stop: the model has ended it. length: `max_new_tokens`, or the last position. error: it cannot be continued.
TextEnd = Literal["stop", "length", "error"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryPart:
    """A part of one question's memory: tokens that follow one another, all heads or some of them."""

    kv_LCHTD: Tensor  # a view of a received chunk; its keys are rotated for the positions where they were computed
    first_slot: int  # of its first token in the memory
    shift: int  # positions by which its keys are rotated further
    first_head: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class QuestionMemory:
    """One question's memory: slots 0 … num_tokens − 1. Its prompt begins at position `next_position`, which is larger
    than `num_tokens` where agents hand over only a part of their turns."""

    parts: Sequence[MemoryPart]
    num_tokens: int
    next_position: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TextRequest:
    """One question of one text agent: all that its text depends on."""

    key: str  # unique in the engine
    question_id: str  # with `agent` and `sampling.seed`: its random stream
    agent: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    memory: QuestionMemory | None = None
    # All inputs of the chain of agents before it, fed before the prompt in place of `memory`. Only an engine that says
    # so takes them; others raise SegmentError.
    inputs: RecomputeInputs | None = None


@dataclass(frozen=True, kw_only=True)
class TextOutput:
    """What one step has written for one question."""

    key: str
    token_ids: tuple[int, ...] = ()  # new ones, without the end token
    end: TextEnd | None = None
    error: str = ""  # one line, if `end` is error


class TextEngine(Protocol):
    """Writes texts. Only one thread at a time calls it. Raises ActorError if it cannot continue at all."""

    @property
    def spec(self) -> KVCacheSpec:
        """Shape and dtype of the memory that it reads."""

    @property
    def device(self) -> str:
        """The device it computes on, for the log."""

    @property
    def chat(self) -> ChatTokenizer:
        """The model's tokenizer and chat template."""

    @property
    def model_name(self) -> str:
        """The model's name, for messages."""

    @property
    def max_positions(self) -> int | None:
        """Positions that the model has; None: without a bound."""

    @property
    def max_running(self) -> int:
        """Questions that it writes at the same time, at most."""

    def can_start(self, request: TextRequest) -> bool:
        """Whether it has room for this question now. True if nothing runs: else it would wait for ever."""

    def start(self, request: TextRequest) -> None:
        """Start a question; the next step reads its memory and its prompt. Raises SegmentError for memory that it
        cannot read."""

    def step(self) -> list[TextOutput]:
        """Advance all questions that run by one token, or by a part of their prompts. Returns one output for each
        question that has new tokens or has ended, and forgets those that have ended."""

    def abort(self, keys: Collection[str]) -> None:
        """Forget these questions. Unknown keys are ignored."""

    def close(self) -> None:
        """Free the engine. Safe to call twice."""
