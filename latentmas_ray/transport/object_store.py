"""Through Ray's object store: works on every cluster; readers on one node share the bytes without a copy."""

from copy import copy
from typing import Self

import numpy as np

from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_piece, encode_piece, from_raw, raw_bytes
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.capabilities import BETWEEN_ACTORS, Capabilities


class ObjectStore(Transport):
    """A piece travels as its wire header and ONE flat uint8 array.

    Ray stores a numpy array out of band, so a reader maps the very pages that the writer filled. A torch tensor it
    would pickle in band, fifty times slower, and views of one buffer once each.
    """

    name = "object_store"
    capabilities = Capabilities(
        links=BETWEEN_ACTORS | {"same_process"}, one_sided=True, survives_producer=True, shares_node=True
    )

    _with_digest = True

    def within_one_node(self) -> Self:
        """Without digests: a reader has the very pages that were written, nothing is sent that could be damaged."""
        other = copy(self)
        other._with_digest = False
        return other

    def pack(self, piece: SegmentChunk) -> tuple[bytes, np.ndarray]:
        """Header and KV bytes; without a codec the array is a view of the piece where that lies on the CPU."""
        header, body = encode_piece(piece, codec=self.codec, with_digest=self._with_digest)
        return header, raw_bytes(body)

    def unpack(self, payload: tuple[bytes, np.ndarray], *, expected: KVCacheSpec) -> SegmentChunk:
        """A piece on the pages of the object store: read-only, valid as long as it is referenced."""
        header, body = payload
        return decode_piece(header, from_raw(body), expected=expected)
