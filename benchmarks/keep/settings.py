"""What is measured: shares, codecs, choosers, on one task and one model."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast, get_args

from latentmas_ray.config import CodecName, KeepBy, KeepLayers
from latentmas_ray.errors import ConfigError

NOTES = "notes"
MEMORIES = ("matched", "deranged")


@dataclass(frozen=True)
class KeepCell:
    """One point of the curve: two runs, of matched and of deranged memory."""

    keep: float
    by: KeepBy
    codec: CodecName

    @property
    def name(self) -> str:
        """The name of its folders."""
        return f"keep-{self.keep:g}-{self.by}-{self.codec}"


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
            ("layers", get_args(KeepLayers), (self.layers,)),
        ):
            if wrong := [value for value in values if value not in known]:
                raise ConfigError(name, wrong[0], f"it must be one of {', '.join(known)}")
        if wrong_shares := [share for share in self.keep if not 0 < share <= 1]:
            raise ConfigError("keep", wrong_shares[0], "it must be a share: more than 0 and at most 1")

    def cells(self) -> Iterator[KeepCell]:
        """All points; where everything is kept there is no choice."""
        for codec, share in product(cast("tuple[CodecName, ...]", self.codecs), self.keep):
            for by in cast("tuple[KeepBy, ...]", self.by if share < 1 else ("prompt",)):
                yield KeepCell(share, by, codec)
