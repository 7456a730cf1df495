"""The part of a configuration about several answers to one question, and how one is made of them."""

from typing import Annotated

from pydantic import Field

from latentmas_ray.config.choices import DecisionRule
from latentmas_ray.config.parts import ConfigPart, Since

MAX_SAMPLES = 1024


class DecisionConfig(ConfigPart):
    """How many answers a question gets, and which of them becomes the run's."""

    samples: Annotated[int, Since(before=1)] = Field(
        default=1,
        ge=1,
        le=MAX_SAMPLES,
        description="answers that each answering agent draws for a question, at temperature > 0: they vote, and share "
        "the agent's memory",
    )
    decides: Annotated[DecisionRule | None, Since(before=None)] = Field(
        default=None,
        description="the rule by which several answers become one; without it the topology's, else majority",
    )
    decide_accuracies: Annotated[str | None, Since(before=None)] = Field(
        default=None,
        min_length=1,
        description="FILE.yaml or FILE.json with the accuracy of each answering agent, or the folder of a finished run "
        "that measured them; without it rules estimate what they need from the votes of the run",
    )
