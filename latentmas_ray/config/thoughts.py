"""Thought rules as text: `realign`, or a name with parameters, as in `soft:temperature=0.7,top_k=50`.

A rule makes an agent's next thought from its last hidden state; `models.thoughts` computes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from latentmas_ray.expected import expected_form, field_at

ThoughtRuleName = Literal["realign", "identity", "soft", "blend", "noise"]
THOUGHT_RULES: tuple[ThoughtRuleName, ...] = get_args(ThoughtRuleName)
_FORM = f"it must be one of {', '.join(THOUGHT_RULES)}, with parameters if need be, as in soft:temperature=0.7,top_k=50"


class NoParameters(BaseModel):
    """The parameters of a rule: none. The other rules add theirs."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ScaleParameters(NoParameters):
    """Whether thoughts are rescaled to the mean norm of the input embeddings."""

    rescale: bool = True


class SoftParameters(ScaleParameters):
    """A mean of token embeddings, weighted by the distribution of the next token."""

    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    top_k: int = Field(default=50, ge=1, le=1000)


class BlendParameters(NoParameters):
    """A sum of the hidden state, with `weight`, and of such a mean, with 1 − `weight`."""

    weight: float = Field(default=0.5, ge=0.0, le=1.0)
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    top_k: int = Field(default=50, ge=1, le=1000)


class NoiseParameters(NoParameters):
    """Random vectors; another seed gives others."""

    seed: int = Field(default=0, ge=0, lt=2**63)


_PARAMETERS: Mapping[ThoughtRuleName, type[NoParameters]] = {
    "realign": ScaleParameters,
    "identity": ScaleParameters,
    "soft": SoftParameters,
    "blend": BlendParameters,
    "noise": NoiseParameters,
}


@dataclass(frozen=True)
class ThoughtSettings:
    """A rule and its parameters."""

    name: ThoughtRuleName
    parameters: NoParameters

    def __str__(self) -> str:
        """The text from which `parse_thoughts` gets it: equal rules have equal texts, without what is the default."""
        fields = type(self.parameters).model_fields
        values = {name: getattr(self.parameters, name) for name in fields}
        changed = [f"{name}={_as_text(value)}" for name, value in values.items() if value != fields[name].default]
        return self.name + (f":{','.join(changed)}" if changed else "")


def parse_thoughts(value: object) -> ThoughtSettings:
    """Parse a rule. Raises ValueError, which says what would be right."""
    if not isinstance(value, str):
        raise ValueError(_FORM)
    name, colon, rest = (part.strip() for part in value.partition(":"))
    if name not in THOUGHT_RULES or (colon and not rest):
        raise ValueError(_FORM)
    rule = name
    pairs = [[text.strip() for text in part.partition("=")[::2]] for part in rest.split(",")] if rest else []
    given = dict(pairs)
    if len(given) < len(pairs):
        raise ValueError(f"{_FORM}; each parameter once")
    known = _PARAMETERS[rule].model_fields
    for parameter in given:
        if parameter not in known:
            raise ValueError(f"{rule} has no parameter {parameter!r}; it has {', '.join(known)}")
    try:
        return ThoughtSettings(rule, _PARAMETERS[rule](**given))
    except ValidationError as error:
        first = error.errors()[0]
        expected = expected_form(first, field_at(_PARAMETERS[rule], first["loc"])).removeprefix("it ")
        raise ValueError(f"{first['loc'][0]} {expected}, not {first['input']!r}") from None


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
