"""A rank's transport: reads its heads from the shards of another replica, through the run's transport."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.actors.receiver import SentChunk
from latentmas_ray.authentication import Authenticator, ChunkId, RunKey
from latentmas_ray.config import ActorLink
from latentmas_ray.memory import KVCacheSpec, SegmentChunk, TPRank
from latentmas_ray.memory.reslice import reslice
from latentmas_ray.parallel.ranks import Ranks
from latentmas_ray.transport import Place, Transport


@dataclass(frozen=True)
class ShardPayload:
    """One part of a segment from each shard that holds a reader's heads, in the order of the shards."""

    shards: tuple[TPRank, ...]
    payloads: tuple[Any, ...]


def join_chunks(shards: Sequence[TPRank], chunks: Sequence[SentChunk]) -> SentChunk:
    """Combine the shards' chunks into one; it is final when the last of them was."""
    payload = ShardPayload(tuple(shards), tuple(chunk.payload for chunk in chunks))
    return SentChunk(max(chunk.final_at for chunk in chunks), payload)


class ShardedTransport(Transport):
    """A transport for one rank: packs its shard, and unpacks the shards that hold its heads.

    All ranks unpack in the same order; if it fails on one rank, it fails on all.
    """

    def __init__(self, inner: Transport, ranks: Ranks) -> None:
        self._inner, self._ranks = inner, ranks
        # The inner transport moves the bytes, so its capabilities count.
        self.name, self.capabilities, self.codec = inner.name, inner.capabilities, inner.codec

    def at(self, place: Place) -> "ShardedTransport":
        return ShardedTransport(self._inner.at(place), self._ranks)

    def for_links(self, links: Collection[ActorLink] | None) -> "ShardedTransport":
        return ShardedTransport(self._inner.for_links(links), self._ranks)

    def open(self, key: RunKey | None = None) -> None:
        self._inner.open(key)

    @property
    def authenticator(self) -> Authenticator:
        return self._inner.authenticator

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        return self._inner.reserve(num_bytes, device)

    def pack(self, chunk: SegmentChunk, chunk_id: ChunkId | None = None) -> Any:
        """Pack this rank's shard with the inner transport."""
        return self._inner.pack(chunk, chunk_id)

    def unpack(self, payload: ShardPayload, *, expected: KVCacheSpec, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """Return this rank's heads. If it raises on one rank, it raises on every rank."""
        with self._ranks.all_or_none():
            chunks = [
                self._inner.unpack(one, expected=expected.of_shard(shard), chunk_id=chunk_id)
                for shard, one in zip(payload.shards, payload.payloads, strict=True)
            ]
            return reslice(chunks, expected)

    def unpack_inputs(self, payload: ShardPayload, *, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """Return the inputs, which are the same in all shards. If it raises on one rank, it raises on every rank."""
        with self._ranks.all_or_none():
            return self._inner.unpack_inputs(payload.payloads[0], chunk_id=chunk_id)

    def fetch(self, payload: Any) -> None:
        """Fetch one shard, as its sender packed it."""
        self._inner.fetch(payload)

    def name_of(self, payload: ShardPayload) -> str:
        """The name of what moves the shards; the names, if those of several links do."""
        return "+".join(dict.fromkeys(self._inner.name_of(one) for one in payload.payloads))

    def release(self, payload: Any) -> None:
        self._inner.release(payload)

    def close(self) -> None:
        self._inner.close()
