"""Through Ray's object store: works on every cluster; readers on one node share the bytes without a copy."""

from typing import ClassVar

import numpy as np

from latentmas_ray.memory import KVCacheSpec, Segment
from latentmas_ray.memory.wire import decode, encode
from latentmas_ray.transport.base import Transport


class ObjectStore(Transport):
    """A segment travels as its wire header and ONE flat uint8 array.

    Ray stores a numpy array out of band, so a reader maps the very pages that the writer filled. A torch tensor it
    would pickle in band, fifty times slower, and views of one buffer once each.
    """

    name: ClassVar[str] = "object_store"

    def pack(self, segment: Segment) -> tuple[bytes, np.ndarray]:
        """Header and KV bytes; the array is a view of the segment where that lies on the CPU."""
        return encode(segment)

    def unpack(self, payload: tuple[bytes, np.ndarray], *, expected: KVCacheSpec) -> Segment:
        """A segment on the pages of the object store: read-only, valid as long as it is referenced."""
        header, kv = payload
        return decode(header, kv, expected=expected)
