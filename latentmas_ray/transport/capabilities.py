"""Capabilities of transports, as data on their classes: `choose` compares them."""

from dataclasses import dataclass
from typing import Literal

from latentmas_ray.config import ActorLink

Device = Literal["cpu", "cuda"]
Link = Literal["same_process", "same_gpu", "same_node", "cross_node"]  # from one actor to another


@dataclass(frozen=True)
class Place:
    """Where an actor is: its node's id, and the UUID of its GPU if it has one."""

    node: str = ""
    gpu: str | None = None

    def link_to(self, other: "Place") -> ActorLink:
        """Return the link from this place to the other."""
        if self.node != other.node:
            return "cross_node"
        return "same_gpu" if self.gpu is not None and self.gpu == other.gpu else "same_node"


BETWEEN_ACTORS: frozenset[Link] = frozenset({"same_gpu", "same_node", "cross_node"})
ANY_DEVICE: frozenset[Device] = frozenset({"cpu", "cuda"})
# What has to be there for each value of `Capabilities.needs`, in words for a user.
NEEDED: dict[str, str] = {
    "memfd": "Linux 5.1 or later, and /proc",
    "gloo": "a torch with Gloo",
    "nccl": "a GPU, and a torch with NCCL",
    "cuda": "a GPU that torch can use",
    "nixl": "pip install 'latentmas-ray[nixl]'",
}


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
    needs: str | None = None  # a package or a torch backend that may be missing: a key of `NEEDED`
