"""The number of latent steps of an agent: fixed, or as many as a question needs until its thoughts have converged.

A configuration and a topology hold a number or text, such as `max:40`; `latent_steps_of` says what it means.
"""

import re
from dataclasses import dataclass

MAX_LATENT_STEPS = 100_000
# Next to prompts' memory no number of thoughts from 1 to 40 answers more than none does; 40 by `realign` cost a model
# that was trained on texts more than half of its right answers, 5 were within the noise of none (docs/thoughts.md).
# 5 and not 0, so that controls of thoughts, guards, traces and other thought rules have something to work on. 40 is the
# published setting, and that of presets.
DEFAULT_LATENT_STEPS = 5
AUTO_STEPS = 40  # `auto` stands for fill:40
CONVERGED = 0.999  # the cosine of a thought with the one before from which it counts as the same; docs/latent_steps.md
LATENT_STEPS_FORM = (
    f"it must be a whole number from 0 to {MAX_LATENT_STEPS}, auto, fill:N or max:N with N from 1 to "
    f"{MAX_LATENT_STEPS}; all but a number may end with a cosine between 0 and 1, as in auto:0.99 and max:80:0.99"
)
_UNTIL = re.compile(r"(?:auto|(?P<kind>fill|max):(?P<most>\d{1,6}))(?::(?P<threshold>\d?\.\d{1,9}))?", re.ASCII)

StepsSetting = int | str


@dataclass(frozen=True)
class LatentSteps:
    """The latent steps of an agent. With a `threshold` a question stops before `most` steps when its thoughts have
    converged: when the cosine of a thought with the one before is at least the threshold, twice in a row. If it
    `fills`, the thoughts that are left are then computed together, in a few forwards."""

    most: int
    threshold: float | None = None
    fills: bool = False

    @property
    def may_stop(self) -> bool:
        """Whether a question may think fewer steps than `most`."""
        return self.threshold is not None

    def __str__(self) -> str:
        """The text or number of a configuration: `40`, `max:40`, `fill:40:0.99`."""
        if self.threshold is None:
            return str(self.most)
        kind = "fill" if self.fills else "max"
        own = "" if self.threshold == CONVERGED else f":{self.threshold:.9f}".rstrip("0")
        return f"{kind}:{self.most}{own}"


def parse_latent_steps(value: object) -> StepsSetting:
    """Return a number, or text in the form in which it is stored: `auto` is `fill:40`. Raises ValueError."""
    steps = _parse(value)
    return str(steps) if steps.may_stop else steps.most


def latent_steps_of(setting: StepsSetting) -> LatentSteps:
    """Return what a setting means. Raises ValueError."""
    return LatentSteps(setting) if isinstance(setting, int) else _parse(setting)


def most_steps(setting: StepsSetting) -> int:
    """Return the largest number of steps: what positions and memory are reserved for."""
    return latent_steps_of(setting).most


def _parse(value: object) -> LatentSteps:
    if isinstance(value, str):
        text = value.strip()
        if (match := _UNTIL.fullmatch(text)) is not None:
            most = AUTO_STEPS if match["most"] is None else int(match["most"])
            kind = match["kind"] or "fill"
            threshold = CONVERGED if match["threshold"] is None else float(match["threshold"])
            if 1 <= most <= MAX_LATENT_STEPS and 0 < threshold < 1:
                return LatentSteps(most, threshold, fills=kind == "fill")
            raise ValueError(LATENT_STEPS_FORM)
        if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LATENT_STEPS)):
            value = int(text)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_LATENT_STEPS:
        raise ValueError(LATENT_STEPS_FORM)
    return LatentSteps(int(value))
