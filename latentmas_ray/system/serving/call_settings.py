"""What one caller sets for its own question; the rest is that of the fleet."""

from dataclasses import dataclass, fields
from typing import Any

from latentmas_ray.config import MemoryName


@dataclass(frozen=True, kw_only=True)
class CallSettings:
    """Fields of `RunConfig` that travel with the turns of a question. None: the fleet's own value.

    Questions with equal settings may be in one batch.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    samples: int | None = None
    latent_steps: int | str | None = None
    memory: MemoryName | None = None
    trace: int | None = None  # so many questions of the batch, the first ones, through the logit lens

    def changes(self) -> dict[str, Any]:
        """Return the fields that are set."""
        values = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in values if value is not None}
