"""What a `Writer` reports while it writes."""

from dataclasses import dataclass

from latentmas_ray.engine.turn import NewTokens, TurnResult


@dataclass(frozen=True, kw_only=True, eq=False)
class TextGrown:
    """A question of a turn has `num_tokens` tokens so far, of all its texts; `new` are those of one text that were not
    reported before, if they are wanted as they are written."""

    number: int  # of the turn
    question_id: str
    num_tokens: int
    new: NewTokens | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class TextEnded:
    """A question of the answering agent has ended before its turn; `result` is of this question alone."""

    number: int
    question_id: str
    result: TurnResult


WriterEvent = TextGrown | TextEnded


def ignore(event: WriterEvent) -> None:
    """Do nothing with an event."""
