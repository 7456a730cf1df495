"""How far a running turn is. Plain data: no torch, no Ray."""

from dataclasses import dataclass
from typing import Literal

# What a turn computes: tokens of its prompt and memory, latent steps, tokens of its text.
Step = Literal["prompt", "latent step", "token"]


@dataclass(eq=False)
class StepCounter:
    """Counts the steps of a session. Another thread may read `now` at any time."""

    now: tuple[Step, int, int] = ("prompt", 0, 0)  # the step, how many are done, and of how many


@dataclass(frozen=True, kw_only=True)
class TurnProgress:
    """A snapshot of a turn that is running."""

    agent: str
    question_ids: tuple[str, ...]
    step: Step
    num_done: int  # prompt: tokens of all questions; latent step and token: of each question
    num_total: int  # an upper bound for tokens, as a text may end earlier
    seconds: float  # since the turn started

    def __str__(self) -> str:
        unit = "prompt token" if self.step == "prompt" else self.step
        batch = f" of {len(self.question_ids)} questions" if len(self.question_ids) > 1 else ""
        return f"{self.agent}: {unit} {self.num_done} of {self.num_total}{batch}"
