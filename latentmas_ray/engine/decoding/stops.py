"""Ends a text at a text that its caller gave (`stop` of an API)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentmas_ray.models.chat import ChatTokenizer

_TOKENS_PER_CHAR = 4  # of a tokenizer of bytes


class StopCheck:
    """Finds the first of some texts in outputs."""

    def __init__(self, chat: "ChatTokenizer", stops: Sequence[str]) -> None:
        """With no `stops` nothing is ever found."""
        self._chat, self._stops = chat, tuple(stops)
        self._num_tokens = _TOKENS_PER_CHAR * (1 + max(map(len, self._stops), default=0))

    def has_ended(self, output: Sequence[int]) -> bool:
        """Return whether the text has a stop text, which its last token has completed."""
        if not self._stops:
            return False
        tail = self._chat.decode(output[-self._num_tokens :])
        return any(stop in tail for stop in self._stops)


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop text in it."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(found)] if found else text
