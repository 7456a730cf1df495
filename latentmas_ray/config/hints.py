"""The part of a configuration about hints: how many a question gets, and who writes them."""

from typing import Annotated

from pydantic import Field, field_validator

from latentmas_ray.config.choices import HintSource
from latentmas_ray.config.parts import ConfigPart, Since

MAX_ABSTRACTIONS = 256


class HintsConfig(ConfigPart):
    """Hints about a question, each for a solver of its own; see docs/abstractions.md."""

    abstractions: Annotated[int | None, Since(before=None)] = Field(
        default=None,
        ge=1,
        le=MAX_ABSTRACTIONS,
        description="hints per question (m), each for a solver of its own; with topology abstraction, or one like it",
    )
    hints: Annotated[HintSource, Since(before="own")] = Field(
        default="own",
        description="who writes them: the abstraction agent, or the task (the field hints of its records)",
    )

    @field_validator("abstractions", mode="before")
    @classmethod
    def _refuse_bool_count(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("it must be a number, not true or false")
        return value
