"""Why a turn has no report."""

from dataclasses import dataclass

from latentmas_ray.errors import TurnError, TurnLostError

MAX_ERROR_CHARS = 500


@dataclass(frozen=True, kw_only=True)
class TurnFailure:
    """What is kept of an error. Kept itself, it would be a cycle: its traceback knows the frames that look at it."""

    agent: str
    reason: str  # one line of bounded length
    is_loss: bool = False  # the turn can be carried out again as it was
    lacks_memory: bool = False
    is_suspect: bool = False

    @classmethod
    def of(cls, agent: str, error: TurnError | TurnLostError) -> "TurnFailure":
        """Of the turn of `agent`."""
        reason = _one_line(error)
        if isinstance(error, TurnLostError):
            return cls(
                agent=agent,
                reason=reason,
                is_loss=True,
                lacks_memory=error.lacks_memory,
                is_suspect=error.is_suspect,
            )
        return cls(agent=agent, reason=reason)


def _one_line(error: Exception) -> str:
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= MAX_ERROR_CHARS else line[: MAX_ERROR_CHARS - 1] + "…"
