"""What a transport can do, as data on its class: what the choice between transports is made from."""

from dataclasses import dataclass
from typing import Literal

Device = Literal["cpu", "cuda"]
Link = Literal["same_process", "same_gpu", "same_node", "cross_node"]  # from one actor to another

BETWEEN_ACTORS: frozenset[Link] = frozenset({"same_gpu", "same_node", "cross_node"})
ANY_DEVICE: frozenset[Device] = frozenset({"cpu", "cuda"})


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What one transport can do.

    It takes memory that lies on one of `devices` (one that moves bytes of the CPU copies them there first) to a reader
    at the other end of one of `links`.
    """

    links: frozenset[Link]
    devices: frozenset[Device] = ANY_DEVICE
    one_sided: bool = False  # a reader needs nothing of its producer's processor, which may be busy, or stopped
    survives_producer: bool = False  # what was packed can still be read after its producer's death
    shares_node: bool = False  # all readers on a node share one copy
    readers_keep: bool = False  # a reader's process keeps a copy for the others on its node, until it is released there
    needs: str | None = None  # a package or a backend of torch that may be missing here
