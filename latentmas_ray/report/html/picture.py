"""The embedding picture: where thoughts lie among the tokens of the vocabulary, on the plane of its main directions.

Paths are made here, for every traced question, so that the page only has to put them in.
"""

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from latentmas_ray.report.html.entries import Member
from latentmas_ray.runs.traces import Trace

WIDTH, HEIGHT = 720, 480
_MARGIN = 24
_MAX_TOKENS = 1500
_MAX_LABELS = 28
_LABEL_HEIGHT, _LETTER_WIDTH = 22, 8.5
_MAX_LABEL_CHARS = 12
# What tokenizers write for a blank before a word and for a line break.
_MARKS = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": " "})


@dataclass(frozen=True, kw_only=True)
class Place:
    """One token on the picture."""

    token: str
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The plane of one run's model."""

    member: Member
    dots: str  # every token of the sample, as one path of points
    labels: tuple[Place, ...]
    num_tokens: int
    explained: tuple[float, float]
    questions: tuple[str, ...]  # that have thoughts
    agents: tuple[str, ...]
    paths: Mapping[str, Mapping[str, Mapping[str, str]]]  # question -> agent -> line, dots, end


class _Scale:
    """From the plane to the picture, with one scale in both directions, so that directions stay what they are."""

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        xs, ys = zip(*points, strict=True)
        self._middle = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
        spans = ((max(xs) - min(xs)) / (WIDTH - 2 * _MARGIN), (max(ys) - min(ys)) / (HEIGHT - 2 * _MARGIN))
        self._unit = max(*spans, 1e-12)

    def place(self, x: float, y: float) -> tuple[float, float]:
        across, up = (x - self._middle[0]) / self._unit, (y - self._middle[1]) / self._unit
        return round(WIDTH / 2 + across, 1), round(HEIGHT / 2 - up, 1)


def make_picture(member: Member) -> Picture | None:
    """The picture of a run; None if it kept no map of its embeddings or no thoughts."""
    embeddings = member.run.embeddings
    traces = {name: thoughts for name, trace in member.run.traces.items() if (thoughts := _thoughts(trace))}
    if embeddings is None or not traces:
        return None
    tokens = [(token, x, y) for token, x, y in embeddings.tokens if math.isfinite(x) and math.isfinite(y)]
    if not tokens:
        return None
    tokens = tokens[:: math.ceil(len(tokens) / _MAX_TOKENS)]
    thought_places = [xy for agents in traces.values() for places in agents.values() for xy in places]
    scale = _Scale([*((x, y) for _, x, y in tokens), *thought_places])
    placed = [Place(token=token, x=scale.place(x, y)[0], y=scale.place(x, y)[1]) for token, x, y in tokens]
    return Picture(
        member=member,
        dots="".join(_dot(place.x, place.y) for place in placed),
        labels=tuple(_choose_labels(placed)),
        num_tokens=len(placed),
        explained=embeddings.explained,
        questions=tuple(traces),
        agents=tuple(dict.fromkeys(agent for agents in traces.values() for agent in agents)),
        paths={
            name: {agent: _path([scale.place(*xy) for xy in places]) for agent, places in agents.items()}
            for name, agents in traces.items()
        },
    )


def _thoughts(trace: Trace) -> dict[str, list[tuple[float, float]]]:
    """The places of every agent's thoughts; one that is not finite has none."""
    found = {
        name: [thought.xy for thought in agent.thoughts if thought.is_finite and all(map(math.isfinite, thought.xy))]
        for name, agent in trace.agents.items()
    }
    return {name: places for name, places in found.items() if places}


def _path(points: list[tuple[float, float]]) -> dict[str, str]:
    line = "M" + "L".join(f"{x} {y}" for x, y in points)
    return {"line": line, "dots": "".join(_dot(x, y) for x, y in points), "end": _dot(*points[-1])}


def _dot(x: float, y: float) -> str:
    """A stroke without length: with round caps it is a point."""
    return f"M{x} {y}h0"


def _choose_labels(places: list[Place]) -> Iterator[Place]:
    """Tokens that can be read, words first, from all over the vocabulary, whose labels do not touch one another."""
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
            yield Place(token=text, x=place.x, y=place.y)
        if len(taken) == _MAX_LABELS:
            return


def _preference(place: Place) -> tuple[bool, int]:
    text = place.token.translate(_MARKS).strip()
    # Neighbours in the vocabulary are alike: a checksum mixes them, the same way every time.
    return not (text.isalpha() and len(text) > 2), zlib.crc32(place.token.encode(errors="replace"))
