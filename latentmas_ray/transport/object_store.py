"""Transport through Ray's object store: works on every cluster; readers on one node share the bytes without a copy."""

from copy import copy
from typing import Self

import numpy as np

from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_chunk, encode_chunk, from_raw, raw_bytes
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.capabilities import BETWEEN_ACTORS, Capabilities


class ObjectStore(Transport):
    """Sends a chunk as its wire header and ONE flat uint8 array.

    Ray stores a numpy array out of band, so a reader maps the pages that the writer filled. It would pickle a torch
    tensor in band, fifty times slower, and store views of one buffer separately.
    """

    name = "object_store"
    capabilities = Capabilities(
        links=BETWEEN_ACTORS | {"same_process"}, one_sided=True, survives_producer=True, shares_node=True
    )

    _with_digest = True

    def within_one_node(self) -> Self:
        """A copy without digests: a reader maps the written pages, so no bytes are sent that could be damaged."""
        other = copy(self)
        other._with_digest = False
        return other

    def pack(self, chunk: SegmentChunk) -> tuple[bytes, np.ndarray]:
        """Return header and KV bytes; without a codec the array is a view of a CPU chunk."""
        header, body = encode_chunk(chunk, codec=self.codec, with_digest=self._with_digest)
        return header, raw_bytes(body)

    def unpack(self, payload: tuple[bytes, np.ndarray], *, expected: KVCacheSpec) -> SegmentChunk:
        """Return a chunk on the object store's pages: read-only, valid as long as it is referenced."""
        header, body = payload
        return decode_chunk(header, from_raw(body), expected=expected)
