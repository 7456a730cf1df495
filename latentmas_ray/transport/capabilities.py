"""Capabilities of transports, as data on their classes: `choose` compares them."""

from dataclasses import dataclass
from typing import Literal

Device = Literal["cpu", "cuda"]
Link = Literal["same_process", "same_gpu", "same_node", "cross_node"]  # from one actor to another

BETWEEN_ACTORS: frozenset[Link] = frozenset({"same_gpu", "same_node", "cross_node"})
ANY_DEVICE: frozenset[Device] = frozenset({"cpu", "cuda"})


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What one transport can do: move memory on one of `devices` over one of `links`.

    A transport that moves bytes of the CPU copies other memory to the CPU first.
    """

    links: frozenset[Link]
    devices: frozenset[Device] = ANY_DEVICE
    one_sided: bool = False  # a read does not involve the producer's processor, which may be busy or stopped
    survives_producer: bool = False  # packed chunks can still be read after the producer's death
    shares_node: bool = False  # all readers on a node share one copy
    readers_keep: bool = False  # a reader's process stores a copy for other readers on its node until it is released
    needs: str | None = None  # a package or a torch backend that may be missing
