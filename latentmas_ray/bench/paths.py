"""Two endpoints and the link between them: in this process, in two processes of one node, or on two nodes."""

import os
from abc import ABC, abstractmethod
from functools import partial

from latentmas_ray.actors.bench_actor import BenchActorHandle, BenchNode
from latentmas_ray.authentication import RunKey
from latentmas_ray.bench.endpoint import TransferEndpoint
from latentmas_ray.bench.link_limits import NUM_THREADS
from latentmas_ray.bench.timings import TransferSample
from latentmas_ray.engine.turn import Link
from latentmas_ray.env import read_environment
from latentmas_ray.errors import RunError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.transport import Transport


class TransferPath(ABC):
    """A sender and a receiver. Call `prepare` once per segment size, then `hand_over` any number of times."""

    link: Link
    clock_error_seconds = 0.0  # error of the times of a move

    @abstractmethod
    def prepare(self, num_tokens: int) -> None:
        """Allocate a segment of `num_tokens` at the sender and an empty cache for it at the receiver."""

    @abstractmethod
    def hand_over(self) -> TransferSample:
        """Measure one transfer, and right after it the link and memcpy with as many bytes."""

    @abstractmethod
    def check(self) -> None:
        """Raise RunError unless both caches hold the same bytes."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Return the available memory of the endpoint that has less."""

    @abstractmethod
    def close(self) -> None:
        """Endpoint both."""


class InProcessPath(TransferPath):
    """Both endpoints in this process."""

    link: Link = "same_process"

    def __init__(self, spec: KVCacheSpec, transport: Transport) -> None:
        key = RunKey.generate()
        self._sender = TransferEndpoint(spec, transport, num_threads(), key)
        self._receiver = TransferEndpoint(spec, transport, num_threads(), key)

    def prepare(self, num_tokens: int) -> None:
        self._sender.prepare(num_tokens, is_sender=True, with_buffers=False)
        self._receiver.prepare(num_tokens, is_sender=False, with_buffers=True)

    def hand_over(self) -> TransferSample:
        sent, received = self._receiver.receive(self._sender.send())
        self._sender.release()
        copy_seconds = self._receiver.copy_seconds()
        return TransferSample.of(sent, received, 0.0, limit=copy_seconds, copies=2 * copy_seconds)

    def check(self) -> None:
        check_digests(self._sender.digest(), self._receiver.digest())

    def free_bytes(self) -> int:
        return self._receiver.free_bytes()

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()


class TwoActorPath(TransferPath):
    """The endpoints are Ray actors, on one node or on two. As between agents, the receiver's call is submitted with a
    reference to the sender's, and already waits when the sender returns."""

    def __init__(self, spec: KVCacheSpec, transport: Transport, sender: BenchNode, receiver: BenchNode) -> None:
        self.link = "same_node" if sender == receiver else "cross_node"
        make = partial(TransferEndpoint, spec, transport, num_threads(), RunKey.generate())
        self._sender = BenchActorHandle(make, sender.node_id)
        self._receiver = BenchActorHandle(make, receiver.node_id)
        self._offset = 0.0
        if self.link == "cross_node":
            port = self._receiver.call("listen", receiver.host)
            self._sender.call("connect", receiver.host, port)

    def prepare(self, num_tokens: int) -> None:
        is_remote = self.link == "cross_node"
        self._sender.call("prepare", num_tokens, is_sender=True, with_buffers=is_remote)
        self._receiver.call("prepare", num_tokens, is_sender=False, with_buffers=True)

    def hand_over(self) -> TransferSample:
        if self.link == "cross_node":
            self._offset, self.clock_error_seconds = self._sender.call("clock")
        sent, received = self._receiver.call("receive", self._sender.submit("send"))
        for endpoint in (self._sender, self._receiver):
            endpoint.call("release")
        copies = self._receiver.call("copy_seconds")
        if self.link == "same_node":
            return TransferSample.of(sent, received, 0.0, limit=copies, copies=2 * copies)
        copies += self._sender.call("copy_seconds")
        limit = self._sender.call("tcp_seconds")
        return TransferSample.of(sent, received, self._offset, limit=limit, copies=copies)

    def check(self) -> None:
        check_digests(self._sender.call("digest"), self._receiver.call("digest"))

    def free_bytes(self) -> int:
        return min(int(endpoint.call("free_bytes")) for endpoint in (self._sender, self._receiver))

    def close(self) -> None:
        for endpoint in (self._sender, self._receiver):
            endpoint.kill()


def num_threads() -> int:
    """Return the torch threads of each endpoint: half of the cores, as for two busy agents, and at most memcpy's."""
    return read_environment().torch_threads or max(1, min(NUM_THREADS, (os.cpu_count() or 1) // 2))


class AlteredBytesError(RunError):
    """Other bytes arrived than were sent."""


def check_digests(sent: str, received: str) -> None:
    """Raise AlteredBytesError if the digests of both caches differ."""
    if sent != received:
        raise AlteredBytesError(f"the receiver's cache holds other bytes than the sender's: digests {received}, {sent}")
