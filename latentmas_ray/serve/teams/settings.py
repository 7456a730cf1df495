"""What a request asks of a team."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from latentmas_ray.engine.turn import GivenMemory
from latentmas_ray.system.serving import CallSettings
from latentmas_ray.tasks.question import Question

if TYPE_CHECKING:
    from latentmas_ray.runs.otel import RequestSpan

OWNER = "latentmas"


@dataclass(frozen=True, kw_only=True)
class TeamRequest:
    """One question to one served model. Its id is replaced."""

    model: str  # latentmas/sequential/text
    question: Question
    settings: CallSettings = field(default_factory=CallSettings)
    stop: tuple[str, ...] = ()  # texts that end the answer, which ends before them
    num_choices: int = 1  # texts that the client gets: 1, however many samples that is made of, or one for each sample
    weight: int = 1  # how many questions with the server's own number of samples cost as much
    streams: bool = False  # the reply has the text as it is written
    trace: bool = False  # the reply has what every agent does
    lens: bool = False  # and its thoughts through the logit lens; its settings must ask for them, too
    given: GivenMemory | None = None  # of its conversation: all agents read it first
    given_tokens: int = 0  # of it
    span: "RequestSpan | None" = None  # of the HTTP request, if spans are exported
    on_answer: Callable[[Sequence[str]], None] | None = None  # gets the texts of the answer

    @property
    def batch_key(self) -> Hashable:
        """Questions with equal keys may be in one batch."""
        return self.model, self.settings, self.stop, self.given, self.num_choices


def stream_name(settings: CallSettings, temperature: float) -> str | None:
    """Return the id that a question needs for its random stream to be that of `latentmas ask`; None: any id will do."""
    return "q0" if settings.seed is not None and temperature > 0 else None
