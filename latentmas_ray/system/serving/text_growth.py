"""The text of tokens that come one after another."""

from collections.abc import Callable, Sequence

from latentmas_ray.engine.turn import NewTokens
from latentmas_ray.errors import RunError

_PART_OF_A_CHARACTER = "\ufffd"


class TextGrowth:
    """Makes pieces of text of tokens. No piece ends within a character, and all pieces together are the whole text."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        """`decode` makes a text of token ids."""
        self._decode = decode
        self._ids: list[int] = []
        self._begin, self._end = 0, 0  # of the last tokens whose text was returned: the next one may depend on them
        self._num_chars = 0  # returned so far

    def add(self, new: NewTokens) -> str:
        """Return the text that new tokens complete, which may be empty. Tokens that come again, of a turn that was
        lost, are compared. Raises RunError if they differ, or if some are missing."""
        known = self._ids[new.first : new.first + len(new.token_ids)]
        if new.first > len(self._ids) or known != list(new.token_ids[: len(known)]):
            raise RunError(
                "an agent was lost while it wrote, and its text has begun otherwise when it was written again"
            )
        self._ids += new.token_ids[len(known) :]
        before = self._decode(self._ids[self._begin : self._end])
        after = self._decode(self._ids[self._begin :])
        if len(after) <= len(before) or not after.startswith(before) or after.endswith(_PART_OF_A_CHARACTER):
            return ""
        self._begin, self._end = self._end, len(self._ids)
        self._num_chars += len(after) - len(before)
        return after[len(before) :]

    def finish(self, text: str) -> str:
        """Return the rest of the whole `text`."""
        rest = text[self._num_chars :]
        self._num_chars = len(text)
        return rest
