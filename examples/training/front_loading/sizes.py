"""How large the study is: its model, data sets, stages and test. A cell's settings have those that it depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import TypeAdapter

_Size = TypeVar("_Size")


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The model: a Qwen3 with four heads and two KV heads, of two layers or more; 0.5M parameters by default."""

    hidden_size: int = 128
    num_layers: int = 3


@dataclass(frozen=True, kw_only=True)
class PoolSizes:
    """How many different documents the two sets of reasoning data have."""

    small: int = 400
    large: int = 8000


@dataclass(frozen=True, kw_only=True)
class StageSize:
    """The steps of pretraining or fine-tuning, the rows of a step and their tokens.

    `reasoning` is the share of reasoning documents in the tokens; `rate` multiplies the learning rates.
    """

    num_steps: int
    reasoning: float
    rate: float = 1.0
    num_rows: int = 8
    num_tokens: int = 256


@dataclass(frozen=True, kw_only=True)
class RewardSize:
    """The steps of training by rewards: problems of a step, and answers to each."""

    num_steps: int = 100
    num_problems: int = 24
    num_samples: int = 8
    rate: float = 0.05


@dataclass(frozen=True, kw_only=True)
class StudySize:
    """All sizes; `num_questions` are those of the test."""

    model: ModelSize = field(default_factory=ModelSize)
    pools: PoolSizes = field(default_factory=PoolSizes)
    pretraining: StageSize = field(default_factory=lambda: StageSize(num_steps=1000, reasoning=0.2))
    fine_tuning: StageSize = field(default_factory=lambda: StageSize(num_steps=150, reasoning=1.0, rate=0.5))
    rewards: RewardSize = field(default_factory=RewardSize)
    num_questions: int = 800


def minute_size() -> StudySize:
    """Return sizes with which all cells of a seed take about a minute; their figures mean nothing."""
    return StudySize(
        model=ModelSize(hidden_size=32, num_layers=2),
        pools=PoolSizes(small=20, large=100),
        pretraining=StageSize(num_steps=6, reasoning=0.2, num_rows=2),
        fine_tuning=StageSize(num_steps=2, reasoning=1.0, num_rows=2),
        rewards=RewardSize(num_steps=2, num_problems=4, num_samples=4),
        num_questions=16,
    )


def size_from(kind: type[_Size], settings: Mapping[str, Any]) -> _Size:
    """Return the sizes of a part from a cell's settings."""
    return TypeAdapter(kind).validate_python(settings)
