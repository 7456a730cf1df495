"""Draws thoughts and tokens on the plane of the first two principal components of a model's input embeddings."""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from latentmas_ray.engine.diagnostics.trace import EmbeddingMap, Thought

WIDTH, HEIGHT = 360, 250
_MARGIN = 16
_MAX_TOKENS = 1000
_MAX_CLOUD = 1200  # thoughts of all questions, behind those of the chosen one
_MAX_LABELS = 9
_LABEL_HEIGHT, _LETTER_WIDTH = 26, 7.5
_MAX_LABEL_CHARS = 10
# How tokenizers write a space before a word, and a line break.
_MARKS = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": " "})


@dataclass(frozen=True, kw_only=True)
class TokenPlace:
    """A token's position, in units of the picture."""

    token: str
    x: float
    y: float


class EmbeddingPlane:
    """Maps embeddings to a picture of WIDTH by HEIGHT, with one scale in both directions, so that angles are kept."""

    def __init__(self, embeddings: EmbeddingMap, thoughts: Sequence[Thought]) -> None:
        """`thoughts` are all that may be drawn; at least one must have a position."""
        tokens = [(token, x, y) for token, x, y in embeddings.tokens if math.isfinite(x) and math.isfinite(y)]
        tokens = tokens[:: math.ceil(len(tokens) / _MAX_TOKENS) or 1]
        points = [*((x, y) for _, x, y in tokens), *(thought.xy for thought in thoughts if has_place(thought))]
        xs, ys = zip(*points, strict=True)
        self._middle = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
        spans = ((max(xs) - min(xs)) / (WIDTH - 2 * _MARGIN), (max(ys) - min(ys)) / (HEIGHT - 2 * _MARGIN))
        self._unit = max(*spans, 1e-12)
        places = [TokenPlace(token=token, x=xy[0], y=xy[1]) for token, x, y in tokens for xy in [self._place(x, y)]]
        self.explained = embeddings.explained  # shares of the embeddings' variance
        self.num_tokens = len(places)
        self.tokens = "".join(_dot(place.x, place.y) for place in places)  # one path of points
        self.labels = tuple(_choose_labels(places))

    def paths(self, thoughts: Sequence[Thought]) -> dict[str, str]:
        """Return the paths of one question's thoughts: all of them, the first, and the last."""
        points = [self._place(*thought.xy) for thought in thoughts if has_place(thought)]
        dots = "".join(_dot(x, y) for x, y in points)
        return {"dots": dots, "start": _dot(*points[0]), "end": _dot(*points[-1])} if points else {}

    def cloud(self, thoughts: Sequence[Thought]) -> str:
        """Return the thoughts of many questions as one path of points."""
        points = [thought.xy for thought in thoughts if has_place(thought)]
        return "".join(_dot(*self._place(*xy)) for xy in points[:: math.ceil(len(points) / _MAX_CLOUD) or 1])

    def _place(self, x: float, y: float) -> tuple[float, float]:
        across, up = (x - self._middle[0]) / self._unit, (y - self._middle[1]) / self._unit
        return round(WIDTH / 2 + across, 1), round(HEIGHT / 2 - up, 1)


def has_place(thought: Thought) -> bool:
    """Whether a thought and its position are finite."""
    return thought.is_finite and all(map(math.isfinite, thought.xy))


def _dot(x: float, y: float) -> str:
    """Return a stroke of length zero, which is a point with round line caps."""
    return f"M{x} {y}h0"


def _choose_labels(places: list[TokenPlace]) -> Iterator[TokenPlace]:
    """Yield printable tokens from the whole vocabulary, words first, whose labels do not overlap."""
    taken: list[tuple[float, float, float]] = []  # left, right, y
    for place in sorted(places, key=_preference):
        text = place.token.translate(_MARKS).strip()
        left, right = place.x, place.x + 8 + _LETTER_WIDTH * len(text)
        is_free = all(
            right < other_left or left > other_right or abs(place.y - y) > _LABEL_HEIGHT
            for other_left, other_right, y in taken
        )
        if text.isprintable() and 0 < len(text) <= _MAX_LABEL_CHARS and is_free and right < WIDTH:
            taken.append((left, right, place.y))
            yield TokenPlace(token=text, x=place.x, y=place.y)
        if len(taken) == _MAX_LABELS:
            return


def _preference(place: TokenPlace) -> tuple[bool, int]:
    text = place.token.translate(_MARKS).strip()
    # Neighbours in the vocabulary are similar: a checksum shuffles them deterministically.
    return not (text.isalpha() and len(text) > 2), zlib.crc32(place.token.encode(errors="replace"))
