"""From the tokens of a question, as they are written, to pieces of text for its client."""

from collections.abc import Callable, Sequence

from latentmas_ray.engine.decoding.stops import cut_at_stop
from latentmas_ray.engine.turn import NewTokens
from latentmas_ray.serve.teams.reply import TextPiece
from latentmas_ray.system.serving import TextGrowth


class StopHold:
    """Holds back the end of a text that may begin a stop text, and ends before the first whole one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.has_ended = False

    def add(self, piece: str) -> str:
        """Return what can be shown of the text with this next piece."""
        if self.has_ended or not self._stops:
            return "" if self.has_ended else piece
        text = self._held + piece
        shown = cut_at_stop(text, self._stops)
        self.has_ended = len(shown) < len(text)
        if self.has_ended:
            self._held = ""
            return shown
        count = self._num_held(text)
        self._held = text[len(text) - count :]
        return text[: len(text) - count]

    def finish(self, rest: str) -> str:
        """Return what is left to show, with the last piece of the text."""
        shown = self.add(rest)
        held, self._held = self._held, ""
        return shown + held

    def _num_held(self, text: str) -> int:
        """How many characters at the end of a text begin a stop text."""
        longest = max(map(len, self._stops)) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((count for count in lengths if any(stop.startswith(text[-count:]) for stop in self._stops)), 0)


class ReplyTexts:
    """The texts of one question as its client sees them grow."""

    def __init__(self, stops: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        """`decode` makes a text of token ids."""
        self._stops, self._decode = tuple(stops), decode
        self._texts: dict[int, tuple[TextGrowth, StopHold]] = {}

    def add(self, new: NewTokens) -> list[TextPiece]:
        """Return the text that new tokens complete. Raises RunError like `TextGrowth.add`."""
        growth, hold = self._text(new.sample)
        shown = hold.add(growth.add(new))
        return [TextPiece(choice=new.sample, text=shown)] if shown else []

    def finish(self, texts: Sequence[str]) -> list[TextPiece]:
        """Return the rest of every choice; `texts` are whole, with their stop texts."""
        pieces = []
        for choice, text in enumerate(texts):
            growth, hold = self._text(choice)
            if shown := hold.finish(growth.finish(text)):
                pieces.append(TextPiece(choice=choice, text=shown))
        return pieces

    def _text(self, choice: int) -> tuple[TextGrowth, StopHold]:
        if choice not in self._texts:
            self._texts[choice] = TextGrowth(self._decode), StopHold(self._stops)
        return self._texts[choice]
