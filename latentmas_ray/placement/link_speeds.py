"""The speed of the link between two slots, and the transfers of a plan."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Literal

from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.assignment import Slot
from latentmas_ray.units import parse_bytes

PlannedLink = Literal["same_process", "same_gpu", "nvlink", "pcie", "shared_memory", "network"]
_SPEED = re.compile(r"\s*(.*?)(B|b|bit)/s\s*", re.DOTALL)
_NUMBER = re.compile(r"\d{1,30}(\.\d{1,30})?", re.ASCII)
SPEED_FORM = "it must be a speed above 0, such as 300GB/s or 100Gbit/s"


def parse_speed(text: str) -> float:
    """Return bytes per second from `300GB/s`, `100Gb/s` or `100Gbit/s` (a lower-case b is a bit). Raises ValueError."""
    match = _SPEED.fullmatch(text)
    if match is None:
        raise ValueError(_form_of(text))
    try:
        speed = Fraction(parse_bytes(match[1] + "B")) / (1 if match[2] == "B" else 8)
    except ValueError:
        raise ValueError(SPEED_FORM) from None
    if speed <= 0:
        raise ValueError(SPEED_FORM)
    return float(speed)


def _form_of(text: str) -> str:
    """Return what would be right in place of a text that is no speed; of a number alone, with its number."""
    number = text.strip()
    is_number = _NUMBER.fullmatch(number) is not None
    return f"a speed needs its unit: {number}GB/s or {number}Gbit/s" if is_number else SPEED_FORM


@dataclass(frozen=True, kw_only=True)
class LinkSpeeds:
    """Bytes per second of each link, in one direction. None: no bytes move, or the link does not exist."""

    same_process: float | None = None  # memory is not copied
    same_gpu: float = 500e9  # a copy within an A100's memory, which reads and writes
    nvlink: float | None = 300e9  # third generation, as in an A100; None: GPUs of a node are connected by PCIe
    pcie: float = 25e9  # 4.0 with 16 lanes
    shared_memory: float = 10e9  # a copy by one thread, between actors on cores
    network: float = 12.5e9  # 100 Gbit/s, of a whole node: its ranks share it

    @classmethod
    def parse(cls, given: Mapping[str, str], others: "LinkSpeeds | None" = None) -> "LinkSpeeds":
        """Parse speeds given as text; `none` is allowed for same_process and nvlink. Those that are not given are those
        of `others`, or the defaults. Raises ConfigError."""
        values: dict[str, float | None] = {}
        for name, text in given.items():
            may_be_none = name in ("same_process", "nvlink")
            try:
                values[name] = None if may_be_none and text == "none" else parse_speed(text)
            except ValueError as problem:
                raise ConfigError(name, text, f"{problem}{', or none' if may_be_none else ''}") from None
        return replace(others or cls(), **values)  # type: ignore[arg-type]

    def link(self, source: Slot, reader: Slot, *, same_actor: bool) -> PlannedLink:
        """Return the link between two ranks."""
        if same_actor:
            return "same_process"
        if source.node != reader.node:
            return "network"
        if source.gpu is None:
            return "shared_memory"
        if source.gpu == reader.gpu:
            return "same_gpu"
        return "pcie" if self.nvlink is None else "nvlink"

    def seconds(self, link: PlannedLink, num_bytes: float) -> float:
        """Return the seconds of a transfer: bytes / speed; 0 if no bytes move."""
        speed: float | None = getattr(self, link)
        return 0.0 if speed is None else num_bytes / speed


LINK_NAMES = tuple(field.name for field in fields(LinkSpeeds))


@dataclass(frozen=True, kw_only=True)
class PlannedTransfer:
    """One segment that a reader fetches for one batch."""

    source: str
    reader: str
    tokens: int  # per question
    num_bytes: int  # of the whole batch and of all tp ranks
    # Of the slowest pair of replicas: until the last of the tp ranks, which move their parts at the same time, has its.
    seconds: float
    mean_seconds: float  # the same, as the mean over all pairs
    links: Mapping[PlannedLink, int] = field(default_factory=dict)  # the number of replica pairs that use each link
