"""What each transport can do, as data: what the choice between them is made of, and what their tests expect."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Device = Literal["cpu", "cuda"]
Link = Literal["same_process", "same_gpu", "same_node", "cross_node"]  # from one actor to another

_ANYWHERE: frozenset[Link] = frozenset({"same_gpu", "same_node", "cross_node"})
_BOTH: frozenset[Device] = frozenset({"cpu", "cuda"})


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What one transport can do.

    It takes memory that lies on one of `devices` (one that moves bytes of the CPU copies them there first) to a reader
    at the other end of one of `links`.
    """

    devices: frozenset[Device]
    links: frozenset[Link]
    one_sided: bool = False  # a reader needs nothing of its producer's processor, which may be busy, or stopped
    survives_producer: bool = False  # what was packed can still be read after its producer's death
    shares_node: bool = False  # all readers on a node share one copy
    readers_keep: bool = False  # a reader's process keeps a copy for the others on its node, until it is released there
    needs: str | None = None  # a package or a backend of torch that may be missing here


TRAITS: Mapping[str, Capabilities] = {
    "loopback": Capabilities(devices=_BOTH, links=frozenset({"same_process"}), one_sided=True, shares_node=True),
    "object_store": Capabilities(
        devices=_BOTH,
        links=_ANYWHERE | {"same_process"},
        one_sided=True,
        survives_producer=True,
        shares_node=True,
    ),
    "shared_memory": Capabilities(
        devices=_BOTH,
        links=frozenset({"same_gpu", "same_node"}),
        one_sided=True,
        shares_node=True,
        needs="memfd",
    ),
    "tcp": Capabilities(devices=_BOTH, links=_ANYWHERE, shares_node=True, readers_keep=True),
    "gloo": Capabilities(devices=_BOTH, links=_ANYWHERE, needs="gloo"),
    # Two ranks of NCCL cannot be on one GPU.
    "nccl": Capabilities(devices=frozenset({"cuda"}), links=frozenset({"same_node", "cross_node"}), needs="nccl"),
    "cuda_ipc": Capabilities(
        devices=frozenset({"cuda"}),
        links=frozenset({"same_gpu"}),
        one_sided=True,
        shares_node=True,
        needs="cuda",
    ),
    "nixl": Capabilities(devices=_BOTH, links=_ANYWHERE, one_sided=True, needs="nixl"),
}
