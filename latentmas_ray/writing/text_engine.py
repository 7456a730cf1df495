"""The interface of an engine that writes texts, and its requests and outputs.

Two engines implement it: our own (`writing.continuous`) and vLLM (`vllm.engine`). `writing.writer` calls them. A
question starts as soon as the engine has room for it and leaves when it has ended, whatever the others do.

Dimensions: L layers, C 2 (key, value), H KV heads of a part, T its tokens, D head dim.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import KVCacheSpec, KVSource, RecomputeInputs

if TYPE_CHECKING:
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
    positions: Sequence[Tensor] | None = None  # of its tokens after the shift, see `BatchCache.write`


@dataclass(frozen=True, kw_only=True, eq=False)
class LayeredPart:
    """A part of one question's memory of a model whose layers differ: tokens that follow one another."""

    tensors: Sequence[Tensor]  # [H, T, D] in the order of `KVLayout.tensors`, views of a received chunk
    num_tokens: int
    first_slot: int
    shift: int
    has_states: bool = True  # whether the states among them are those after all tokens of the memory
    positions: Sequence[Tensor] | None = None  # as of a `MemoryPart`


@dataclass(frozen=True, kw_only=True, eq=False)
class QuestionMemory:
    """One question's memory: slots 0 … num_tokens − 1. Its prompt begins at position `next_position`, which is larger
    than `num_tokens` where agents hand over only a part of their turns. It is in `parts`, or in `layered` where the
    model's layers differ."""

    parts: Sequence[MemoryPart]
    num_tokens: int
    next_position: int
    layered: Sequence[LayeredPart] = ()

    @classmethod
    def of(cls, kv: KVSource, next_position: int, positions: Sequence[Tensor] | None = None) -> "QuestionMemory":
        """One question's whole memory, whose keys stay as they are, and where its tokens are (`BatchCache.write`)."""
        num_tokens = kv.layout.num_tokens
        if kv.layout.is_uniform:
            part = MemoryPart(kv_LCHTD=kv.tensor(), first_slot=0, shift=0, positions=positions)
            return cls(parts=(part,), num_tokens=num_tokens, next_position=next_position)
        layered = LayeredPart(
            tensors=kv.tensors_of(0), num_tokens=num_tokens, first_slot=0, shift=0, positions=positions
        )
        return cls(parts=(), num_tokens=num_tokens, next_position=next_position, layered=(layered,))

    def check(self, spec: KVCacheSpec) -> None:
        """Raises SegmentError unless the parts have the shape and dtype of `spec`, and together give every head of
        every token exactly once."""
        if not spec.is_uniform:
            self._check_layered(spec)
            return
        shape = (spec.num_layers, 2, spec.head_dim)
        for part in self.parts:
            num_layers, num_kinds, _, _, head_dim = part.kv_LCHTD.shape
            if (num_layers, num_kinds, head_dim) != shape or part.kv_LCHTD.dtype != spec.torch_dtype:
                raise SegmentError(
                    f"memory of shape {tuple(part.kv_LCHTD.shape)} in {part.kv_LCHTD.dtype} does not fit the model: "
                    f"it has {spec.num_layers} layers and heads of {spec.head_dim} in {spec.torch_dtype}"
                )
        for head in range(spec.num_kv_heads):
            spans = sorted(
                (part.first_slot, part.first_slot + part.kv_LCHTD.shape[3])
                for part in self.parts
                if part.first_head <= head < part.first_head + part.kv_LCHTD.shape[2] and part.kv_LCHTD.shape[3]
            )
            edges = [0, *(edge for span in spans for edge in span), self.num_tokens]
            if any(edges[index] != edges[index + 1] for index in range(0, len(edges), 2)):
                raise SegmentError(f"memory of {self.num_tokens} tokens gives tokens {spans} of head {head}")

    def _check_layered(self, spec: KVCacheSpec) -> None:
        wanted = [tensor for layer in spec.layers for tensor in layer.tensors]
        shapes = [(one.num_heads, one.head_dim, one.torch_dtype) for one in wanted]
        end = 0
        for part in sorted(self.layered, key=lambda part: part.first_slot):
            found = [(tensor.shape[0], tensor.shape[2], tensor.dtype) for tensor in part.tensors]
            if found != shapes or any(
                tensor.shape[1] != part.num_tokens
                for tensor, one in zip(part.tensors, wanted, strict=True)
                if one.state_dims is None
            ):
                raise SegmentError(f"memory of other tensors than the model's, whose layer 0 caches {spec.layers[0]}")
            if part.first_slot != end:
                raise SegmentError(f"memory of {self.num_tokens} tokens gives token {part.first_slot} after {end}")
            end += part.num_tokens
        if self.parts or end != self.num_tokens:
            raise SegmentError(f"memory of {self.num_tokens} tokens gives {end}")


@dataclass(frozen=True, kw_only=True, eq=False)
class TextRequest:
    """One question of one text agent: all that its text depends on."""

    key: str  # unique in the engine
    question_id: str  # with `agent` and `sampling.seed`: its random stream
    agent: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    memory: QuestionMemory | None = None
    # Requests of one group have the same memory and prompt, and other random streams: what is computed for one of them
    # need not be computed again for another that runs at the same time. Empty: it shares nothing.
    group: str = ""
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
    def chat(self) -> "ChatTokenizer":
        """The model's tokenizer and chat template."""

    @property
    def model_name(self) -> str:
        """The model's name, for messages."""

    @property
    def max_positions(self) -> int | None:
        """Positions of a question, at most; None: without a bound."""

    @property
    def positions_bound(self) -> str:
        """What has only `max_positions`, and what to do about it, in one line; empty where that is all
        that the model is made for."""

    @property
    def copies_memory(self) -> bool:
        """Whether `start` copies a question's memory. If not, it is read until the question has ended."""

    @property
    def max_running(self) -> int:
        """Questions that it writes at the same time, at most."""

    @property
    def queued(self) -> Collection[str]:
        """Keys of questions that have started and wait for room in the engine: the last step has not advanced them."""

    def can_start(self, request: TextRequest) -> bool:
        """Whether it has room for this question now. True if nothing runs: else it would wait for ever."""

    def start(self, request: TextRequest) -> None:
        """Start a question; the next step reads its prompt. Raises SegmentError for memory that it cannot read,
        ContextLengthError for a question that can never be written, and CacheError if there is no room for it now, or
        where nothing runs at all; the other questions go on."""

    def step(self) -> list[TextOutput]:
        """Advance all questions that run by one token, or by a part of their prompts. Returns one output for each
        question that has new tokens or has ended, and forgets those that have ended."""

    def abort(self, keys: Collection[str]) -> None:
        """Forget these questions. Unknown keys are ignored."""

    def close(self) -> None:
        """Free the engine. Safe to call twice."""
