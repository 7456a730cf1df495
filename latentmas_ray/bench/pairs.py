"""Two ends and the link between them: in this process, in two on one node, or on two nodes."""

import os
import secrets
from abc import ABC, abstractmethod
from functools import partial

from latentmas_ray.bench.actors import BenchNode, Station
from latentmas_ray.bench.end import End
from latentmas_ray.bench.links import NUM_THREADS
from latentmas_ray.bench.stamps import TransferSample
from latentmas_ray.engine.turn import Link
from latentmas_ray.env import read_environment
from latentmas_ray.errors import RunError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.transport import Transport


class TransferPath(ABC):
    """A sender and a receiver. Calls go in this order: `prepare`, then `hand_over`, and again."""

    link: Link
    clock_error_seconds = 0.0  # by how much the times of a move may be wrong

    @abstractmethod
    def prepare(self, num_tokens: int) -> None:
        """Have a segment of so many tokens ready, and empty room for it at the receiver."""

    @abstractmethod
    def hand_over(self) -> TransferSample:
        """One hand-over, and right after it what the link and memcpy need for as many bytes."""

    @abstractmethod
    def check(self) -> None:
        """Raises RunError unless the receiver's cache holds exactly what the sender's does."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Memory left at the end that has less."""

    @abstractmethod
    def close(self) -> None:
        """End both."""


class InProcessPath(TransferPath):
    """Both ends here."""

    link: Link = "same_process"

    def __init__(self, spec: KVCacheSpec, transport: Transport) -> None:
        self._sender = End(spec, transport, num_threads())
        self._receiver = End(spec, transport, num_threads())

    def prepare(self, num_tokens: int) -> None:
        self._sender.prepare(num_tokens, is_sender=True, with_buffers=False)
        self._receiver.prepare(num_tokens, is_sender=False, with_buffers=True)

    def hand_over(self) -> TransferSample:
        sent, received = self._receiver.take(self._sender.give())
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
    """The ends are Ray actors, on one node or on two. References are chained, as between agents: the receiver's call
    is waiting when the sender returns."""

    def __init__(self, spec: KVCacheSpec, transport: Transport, sender: BenchNode, receiver: BenchNode) -> None:
        self.link = "same_node" if sender == receiver else "cross_node"
        make = partial(End, spec, transport, num_threads())
        self._sender = Station(make, sender.node_id)
        self._receiver = Station(make, receiver.node_id)
        self._offset = 0.0
        if self.link == "cross_node":
            key = secrets.token_bytes(16)
            port = self._receiver.call("listen", receiver.host, key)
            self._sender.call("dial", receiver.host, port, key)

    def prepare(self, num_tokens: int) -> None:
        is_remote = self.link == "cross_node"
        self._sender.call("prepare", num_tokens, is_sender=True, with_buffers=is_remote)
        self._receiver.call("prepare", num_tokens, is_sender=False, with_buffers=True)

    def hand_over(self) -> TransferSample:
        if self.link == "cross_node":
            self._offset, self.clock_error_seconds = self._sender.call("clock")
        sent, received = self._receiver.call("take", self._sender.begin("give"))
        for station in (self._sender, self._receiver):
            station.call("release")
        copies = self._receiver.call("copy_seconds")
        if self.link == "same_node":
            return TransferSample.of(sent, received, 0.0, limit=copies, copies=2 * copies)
        copies += self._sender.call("copy_seconds")
        limit = self._sender.call("line_seconds")
        return TransferSample.of(sent, received, self._offset, limit=limit, copies=copies)

    def check(self) -> None:
        check_digests(self._sender.call("digest"), self._receiver.call("digest"))

    def free_bytes(self) -> int:
        return min(int(station.call("free_bytes")) for station in (self._sender, self._receiver))

    def close(self) -> None:
        for station in (self._sender, self._receiver):
            station.end()


def num_threads() -> int:
    """torch's threads at each end: those of an agent beside another busy one, and no more than memcpy gets."""
    return read_environment().torch_threads or max(1, min(NUM_THREADS, (os.cpu_count() or 1) // 2))


def check_digests(sent: str, received: str) -> None:
    if sent != received:
        raise RunError(f"the receiver's cache holds other bytes than the sender's: digests {received}, {sent}")
