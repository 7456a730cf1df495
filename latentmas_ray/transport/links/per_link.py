"""A transport that uses another one for each kind of link, chosen for every hand-over by where its two ends are."""

from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from latentmas_ray.authentication import ChunkId, RunKey
from latentmas_ray.config import ActorLink, CodecName
from latentmas_ray.errors import TransferError, WireError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.capabilities import ANY_DEVICE, Capabilities, Place
from latentmas_ray.transport.handles import SignedHandle, check_handle, sign_handle


@dataclass(frozen=True)
class RoutedHandle(SignedHandle):
    """Where a chunk was packed, and the names of the transports that packed it."""

    node: str
    gpu: str | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class RoutedPayload:
    """A chunk's payloads, in the order of the handle's names."""

    handle: RoutedHandle
    payloads: tuple[Any, ...]


class PerLink(Transport):
    """Packs a chunk with the transport of each link over which it may be read; a reader unpacks that of its own link.

    The driver knows where a segment's readers are (`for_links`), so that usually one transport packs it. A reader on
    another link, as after a restart elsewhere, gets TransferError: the segment is computed again.
    """

    def __init__(self, by_link: Mapping[ActorLink, Transport], place: Place | None = None) -> None:
        """`place` is where this process is; see `at`."""
        self._by_link = dict(by_link)
        self._place = place or Place()
        self.codec = next((one.codec for one in by_link.values()), "none")
        self.name = ",".join(f"{link}={one.name}" for link, one in by_link.items())
        able = [one.capabilities for one in self._distinct().values()]
        self.capabilities = Capabilities(
            links=frozenset(by_link),
            devices=ANY_DEVICE.intersection(*(one.devices for one in able)),
            one_sided=all(one.one_sided for one in able),
            survives_producer=all(one.survives_producer for one in able),
            shares_node=all(one.shares_node for one in able),
            readers_keep=any(one.readers_keep for one in able),
        )

    def at(self, place: Place) -> Self:
        other = copy(self)
        other._place = place
        return other

    def for_links(self, links: Collection[ActorLink] | None) -> "Transport":
        """Return what packs for these links only. It shares what is open with this transport."""
        if links is None or {self._served_as(link) for link in links} >= set(self._by_link):
            return self
        wanted = {self._served_as(link) for link in links}
        other = PerLink({link: one for link, one in self._by_link.items() if link in wanted}, self._place)
        other._authenticator = self._authenticator
        return other

    def with_codec(self, codec: CodecName) -> "PerLink":
        coded = {name: one.with_codec(codec) for name, one in self._distinct().items()}
        return PerLink({link: coded[one.name] for link, one in self._by_link.items()}, self._place)

    def open(self, key: RunKey | None = None) -> None:
        super().open(key)
        opened: list[Transport] = []
        try:
            for one in self._distinct().values():
                one.open(key)
                opened.append(one)
        except BaseException:
            for one in opened:
                one.close()
            raise

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        """Return memory of the nearest link's transport; others copy from it."""
        nearest = next(iter(self._by_link.values()), None)
        return super().reserve(num_bytes, device) if nearest is None else nearest.reserve(num_bytes, device)

    def pack(self, chunk: SegmentChunk, chunk_id: ChunkId | None = None) -> RoutedPayload:
        """Return the payloads of all transports of this run, or of those of `for_links`."""
        members = self._distinct()
        handle = RoutedHandle(self._place.node, self._place.gpu, tuple(members))
        payloads: list[Any] = []
        try:
            for one in members.values():
                payloads.append(one.pack(chunk, chunk_id))
        except BaseException:
            for one, own in zip(members.values(), payloads, strict=False):
                one.release(own)
            raise
        return RoutedPayload(sign_handle(handle, self.authenticator), tuple(payloads))

    def unpack(self, payload: RoutedPayload, *, expected: KVCacheSpec, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """Unpack with the transport of the link to where the chunk was packed. Raises TransferError if it was not
        packed for that link."""
        one, own = self._own(payload)
        return one.unpack(own, expected=expected, chunk_id=chunk_id)

    def unpack_inputs(self, payload: RoutedPayload, *, chunk_id: ChunkId | None = None) -> SegmentChunk:
        one, own = self._own(payload)
        return one.unpack_inputs(own, chunk_id=chunk_id)

    def fetch(self, payload: RoutedPayload) -> None:
        one, own = self._own(payload)
        one.fetch(own)

    def release(self, payload: RoutedPayload) -> None:
        members = self._distinct()
        for name, own in zip(payload.handle.names, payload.payloads, strict=True):
            if name in members:
                members[name].release(own)

    def name_of(self, payload: RoutedPayload) -> str:
        one, own = self._own(payload)
        return one.name_of(own)

    def close(self) -> None:
        for one in self._distinct().values():
            one.close()

    def _own(self, payload: RoutedPayload) -> tuple[Transport, Any]:
        """Return the transport of the link to where a chunk was packed, and its payload."""
        if not isinstance(payload, RoutedPayload):
            raise WireError("not a segment: the payload is not that of several transports")
        check_handle(payload.handle, RoutedHandle, self.authenticator)
        link = self._place.link_to(Place(payload.handle.node, payload.handle.gpu))
        one = self._by_link.get(self._served_as(link))
        if one is None or one.name not in payload.handle.names:
            raise TransferError(f"the segment was not sent over {link}: its reader is not where it was expected")
        return one, payload.payloads[payload.handle.names.index(one.name)]

    def _served_as(self, link: ActorLink) -> ActorLink:
        """Return the link whose transport serves this one. Actors on one GPU are on one node, too."""
        return "same_node" if link == "same_gpu" and link not in self._by_link else link

    def _distinct(self) -> dict[str, Transport]:
        return {one.name: one for one in self._by_link.values()}
