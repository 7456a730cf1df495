"""Transport through Ray's object store: works on every cluster; readers on one node share the bytes without a copy."""

from copy import copy
from typing import Any, Self

import numpy as np

from latentmas_ray.authentication import ChunkId
from latentmas_ray.errors import WireError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_chunk, decode_inputs, encode_chunk, from_raw, raw_bytes
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

    _tags_bodies = True

    def within_one_node(self) -> Self:
        """A copy that tags headers only: a reader maps the written pages, which no other user can reach."""
        other = copy(self)
        other._tags_bodies = False
        return other

    def pack(self, chunk: SegmentChunk, chunk_id: ChunkId | None = None) -> tuple[bytes, np.ndarray]:
        """Return header and KV bytes; without a codec the array is a view of a CPU chunk."""
        header, body = encode_chunk(
            chunk,
            codec=self.codec,
            with_digest=self._tags_bodies,
            authenticator=self.authenticator,
            chunk_id=chunk_id,
        )
        return header, raw_bytes(body)

    def unpack(
        self, payload: tuple[bytes, np.ndarray], *, expected: KVCacheSpec, chunk_id: ChunkId | None = None
    ) -> SegmentChunk:
        """Return a chunk on the object store's pages: read-only, valid as long as it is referenced."""
        header, body = _checked(payload)
        return decode_chunk(
            header,
            from_raw(body),
            expected=expected,
            checks_digest=self._tags_bodies,
            authenticator=self.authenticator,
            chunk_id=chunk_id,
        )

    def unpack_inputs(self, payload: tuple[bytes, np.ndarray], *, chunk_id: ChunkId | None = None) -> SegmentChunk:
        return decode_inputs(_checked(payload)[0], authenticator=self.authenticator, chunk_id=chunk_id)


def _checked(payload: Any) -> tuple[bytes, np.ndarray]:
    """The two parts of a payload. Raises WireError for anything else."""
    if isinstance(payload, tuple) and len(payload) == 2:
        header, body = payload
        if isinstance(header, bytes) and isinstance(body, np.ndarray) and (body.dtype, body.ndim) == (np.uint8, 1):
            return header, body
    raise WireError("not a segment: the payload is not a header and flat bytes")
