"""What an agent did on one question, kept to be looked at. Plain data: no torch, no Ray.

A latent thought is no text. The *lens* shows what it is near to: the tokens that the vocabulary projection gives for
it, how sure it is of them, and where it lies among the input embeddings.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

AlarmKind = Literal["not-finite", "norm", "distance", "entropy", "repetition", "no-effect"]


@dataclass(frozen=True, kw_only=True)
class Thought:
    """One latent thought through the lens. One that is not finite has no tokens, is near to none, and its figures are
    0; one of which the model cannot tell what it says has no tokens, and its entropy is 0."""

    tokens: tuple[tuple[str, float], ...]  # the likeliest next tokens and their probabilities, the likeliest first
    entropy: float  # of all next tokens, in nats
    norm: float  # of the mapped hidden state before rescaling, over the mean norm of the input embeddings
    distance: float  # cosine distance to the nearest input embedding: 0 the same direction, 1 at right angles
    nearest: str  # that embedding's token
    xy: tuple[float, float]  # on the plane of the two main directions of the input embeddings

    @property
    def is_finite(self) -> bool:
        """Whether its figures mean anything."""
        return bool(self.nearest)


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something about an agent's memory that should not be."""

    kind: AlarmKind
    step: int | None = None  # the thought, from 0; None where it is not about one thought
    source: str | None = None  # for no-effect: the agent whose memory changes nothing
    value: float = 0.0
    limit: float = 0.0  # that the value went over, or for no-effect stayed under


@dataclass(frozen=True, kw_only=True)
class AgentTrace:
    """One agent, one question."""

    prompt: str  # as the tokenizer had it: with the chat template around it
    reads: tuple[str, ...] = ()  # the agents whose segments were in its memory, in their order
    thoughts: tuple[Thought, ...] = ()
    text: str | None = None  # what it wrote, if it writes
    effects: Mapping[str, float] = field(default_factory=dict)
    """Per agent in `reads`: how far the distribution of the next token moves when that segment is left out, as the
    Kullback-Leibler divergence in nats from with to without; where it moves most, after the prompt and after each
    thought, or each token of its text."""
    alarms: tuple[Alarm, ...] = ()

    def to_row(self) -> dict[str, Any]:
        """As an object of JSON."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "AgentTrace":
        """The inverse of `to_row`. Raises KeyError, TypeError or ValueError for a row of another form."""
        thoughts = tuple(
            Thought(
                **{
                    **thought,
                    "tokens": tuple((token, float(share)) for token, share in thought["tokens"]),
                    **{name: float(thought[name]) for name in ("entropy", "norm", "distance")},
                    "xy": (float(thought["xy"][0]), float(thought["xy"][1])),
                }
            )
            for thought in row["thoughts"]
        )
        alarms = tuple(Alarm(**alarm) for alarm in row["alarms"])
        return cls(**{**row, "reads": tuple(row["reads"]), "thoughts": thoughts, "alarms": alarms})


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """The plane on which thoughts are drawn: the two main directions of the input embeddings."""

    explained: tuple[float, float]  # share of the embeddings' variance along each
    tokens: tuple[tuple[str, float, float], ...]  # a sample of the vocabulary with its places

    def to_row(self) -> dict[str, Any]:
        """As an object of JSON."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "EmbeddingMap":
        """The inverse of `to_row`. Raises KeyError, TypeError or ValueError for a row of another form."""
        tokens = tuple((str(token), float(x), float(y)) for token, x, y in row["tokens"])
        return cls(explained=(float(row["explained"][0]), float(row["explained"][1])), tokens=tokens)
