"""Traces: what an agent did on one question, stored for inspection. Plain data: no torch, no Ray.

A latent thought is not text. The *logit lens* describes it: the likeliest tokens of its vocabulary projection, their
entropy, and its place among the input embeddings.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

AlarmKind = Literal["not-finite", "norm", "distance", "entropy", "repetition", "no-effect"]


@dataclass(frozen=True, kw_only=True)
class Thought:
    """One latent thought through the logit lens. A thought that is not finite has no tokens, no nearest token, and
    zeros; one whose next token's distribution is not finite has no tokens and entropy 0."""

    tokens: tuple[tuple[str, float], ...]  # the likeliest next tokens and their probabilities, the likeliest first
    entropy: float  # of all next tokens, in nats
    norm: float  # of the mapped hidden state before rescaling, over the mean norm of the input embeddings
    distance: float  # cosine distance to the nearest input embedding: 0 the same direction, 1 at right angles
    nearest: str  # that embedding's token
    xy: tuple[float, float]  # on the plane of the two main directions of the input embeddings

    @property
    def is_finite(self) -> bool:
        """Whether its values are valid."""
        return bool(self.nearest)


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """An anomaly in an agent's memory."""

    kind: AlarmKind
    step: int | None = None  # the thought, from 0; None if it is not about one thought
    source: str | None = None  # for no-effect: the agent whose memory changes nothing
    value: float = 0.0
    limit: float = 0.0  # that the value exceeds; for no-effect, that it stays below
    note: str = ""  # why it is only worth a note; empty for an alarm


@dataclass(frozen=True, kw_only=True)
class AgentTrace:
    """The trace of one agent on one question."""

    prompt: str  # as it was tokenized, with the chat template
    reads: tuple[str, ...] = ()  # the agents whose segments were in its memory, in their order
    thoughts: tuple[Thought, ...] = ()
    text: str | None = None  # what it wrote, if it writes
    effects: Mapping[str, float] = field(default_factory=dict)
    """Per agent in `reads`: the effect of leaving out its segment, as the Kullback-Leibler divergence of the next
    token's distribution (with from without) in nats; the maximum over the places after the prompt and after each
    thought, or each token of the text."""
    alarms: tuple[Alarm, ...] = ()  # and notes

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
    """The plane on which thoughts are plotted: the two main directions of the input embeddings."""

    explained: tuple[float, float]  # share of the embeddings' variance along each
    tokens: tuple[tuple[str, float, float], ...]  # a sample of the vocabulary with coordinates

    def to_row(self) -> dict[str, Any]:
        """As an object of JSON."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "EmbeddingMap":
        """The inverse of `to_row`. Raises KeyError, TypeError or ValueError for a row of another form."""
        tokens = tuple((str(token), float(x), float(y)) for token, x, y in row["tokens"])
        return cls(explained=(float(row["explained"][0]), float(row["explained"][1])), tokens=tokens)
