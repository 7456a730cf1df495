"""What is measured: shares, codecs, choosers, on one task and one model."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from latentmas_ray.config import CodecName, KeepBy, KeepLayers
from latentmas_ray.errors import ConfigError

NOTES = "notes"
MEMORIES = ("matched", "deranged")
# Places in the prompts of notes and facts, as text: numbers, the names before them, whole facts. Who knows the task
# could keep these; they are what any choice can be compared with.
SPOTS: Mapping[str, re.Pattern[str]] = {
    "numbers": re.compile(r"\d+"),
    "names+numbers": re.compile(r"\d+|\b[A-Z]\w*(?= has\b)"),
    "facts": re.compile(r"\b[A-Z]\w* has \d+ \w+\."),
    "prompts": re.compile(r"(?s).*"),  # everything; as the only place it leaves out the thoughts
}


@dataclass(frozen=True)
class KeepCell:
    """One point of the curve: two runs, of matched and of deranged memory."""

    keep: float  # share of the positions; of those in places of the text another one, by their number
    by: str  # who chooses, or the places
    codec: CodecName

    @property
    def name(self) -> str:
        """The name of its folders."""
        return f"keep-{self.keep:g}-{self.by}-{self.codec}"

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is left out."""
        return self.keep == 1 and self.by not in SPOTS


@dataclass(frozen=True, kw_only=True)
class KeepBenchSettings:
    """Raises ConfigError for a value that cannot be."""

    model: str = "tiny"
    task: str = NOTES  # or a FILE.jsonl
    topology: str = "hierarchical"
    dtype: str = "auto"
    questions: int = 2000  # of notes, generated; of a file at most
    keep: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25, 0.125)
    codecs: tuple[str, ...] = ("none", "int8", "int4")
    by: tuple[str, ...] = ("prompt", "reader", "random")
    places: tuple[str, ...] = ()  # of `SPOTS`: more points, of positions that the text says
    layers: str = "shared"
    latent_steps: int = 5
    batch_size: int = 200
    max_new_tokens: int = 160
    seed: int = 0  # of the notes, and of chance
    output: Path = Path("keep")

    def __post_init__(self) -> None:
        for name, known, values in (
            ("codecs", get_args(CodecName), self.codecs),
            ("by", get_args(KeepBy), self.by),
            ("places", tuple(SPOTS), self.places),
            ("layers", get_args(KeepLayers), (self.layers,)),
        ):
            if wrong := [value for value in values if value not in known]:
                raise ConfigError(name, wrong[0], f"it must be one of {', '.join(known)}")
        if wrong_shares := [share for share in self.keep if not 0 < share <= 1]:
            raise ConfigError("keep", wrong_shares[0], "it must be a share: more than 0 and at most 1")

    @property
    def identity(self) -> dict[str, object]:
        """What a cell must have been run with to be read."""
        names = ("model", "task", "topology", "dtype", "questions", "layers", "latent_steps", "batch_size")
        return {name: getattr(self, name) for name in (*names, "max_new_tokens", "seed")}

    def choice(self, cell: KeepCell) -> dict[str, object]:
        """The fields of a run's configuration that say what is kept."""
        if cell.keep == 1:  # of places, too: they are chosen afterwards
            return {}
        return {"keep": cell.keep, "keep_by": cell.by, "keep_layers": self.layers}

    def cells(self) -> Iterator[KeepCell]:
        """All points; where everything is kept there is no choice."""
        for codec in cast("tuple[CodecName, ...]", self.codecs):
            for share in self.keep:
                for by in self.by if share < 1 else ("prompt",):
                    yield KeepCell(share, by, codec)
            for place in self.places:
                yield KeepCell(1.0, place, codec)
