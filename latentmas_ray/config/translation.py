"""The part of a configuration about memory that agents with another model read."""

from typing import Annotated

from pydantic import Field

from latentmas_ray.config.parts import ConfigPart, Since


class TranslationConfig(ConfigPart):
    """How thoughts become those of another model; see docs/mixed_models.md."""

    translation: Annotated[str | None, Since(before=None)] = Field(
        default=None,
        min_length=1,
        description="trained maps of thoughts between agents with different models, a file or a folder of them; "
        "without it the map that needs no training",
    )
