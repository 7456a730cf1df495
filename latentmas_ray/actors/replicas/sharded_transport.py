"""What a rank reads from the shards of another replica, by whatever transport the run uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.actors.receiver import SentChunk
from latentmas_ray.memory import KVCacheSpec, SegmentChunk, TPRank
from latentmas_ray.memory.reslice import reslice
from latentmas_ray.parallel.ranks import Ranks
from latentmas_ray.transport import Transport


@dataclass(frozen=True)
class ShardPayload:
    """The same part of one segment from the shards that hold a reader's heads, in their order."""

    shards: tuple[TPRank, ...]
    payloads: tuple[Any, ...]


def join_chunks(shards: Sequence[TPRank], chunks: Sequence[SentChunk]) -> SentChunk:
    """One parcel for the reader: final when the last of them was."""
    payload = ShardPayload(tuple(shards), tuple(chunk.payload for chunk in chunks))
    return SentChunk(max(chunk.final_at for chunk in chunks), payload)


class ShardedTransport(Transport):
    """A transport for one rank: packs its shard, and unpacks what its heads are made of.

    All ranks unpack in the same order, and what one of them cannot have none of them takes.
    """

    def __init__(self, inner: Transport, ranks: Ranks) -> None:
        self._inner, self._ranks = inner, ranks
        # What moves the bytes, and what it can do, is the transport inside.
        self.name, self.capabilities, self.codec = inner.name, inner.capabilities, inner.codec

    def open(self) -> None:
        self._inner.open()

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        return self._inner.reserve(num_bytes, device)

    def pack(self, piece: SegmentChunk) -> Any:
        """This rank's shard, as the transport inside packs it."""
        return self._inner.pack(piece)

    def unpack(self, payload: ShardPayload, *, expected: KVCacheSpec) -> SegmentChunk:
        """This rank's heads. Raises on every rank what it raises on one."""
        with self._ranks.all_or_none():
            pieces = [
                self._inner.unpack(one, expected=expected.of_shard(shard))
                for shard, one in zip(payload.shards, payload.payloads, strict=True)
            ]
            return reslice(pieces, expected)

    def release(self, payload: Any) -> None:
        self._inner.release(payload)

    def close(self) -> None:
        self._inner.close()
