"""Rendezvous of the two sides of a connection: they exchange addresses through a store, as torch requires.

Gloo needs the store only to connect and uses the connection's channel: no other port is opened, and no name is looked
up (torch's own store resolves its clients' names, which takes seconds for unknown ones). NCCL may need a store at any
time and uses torch's.
"""

from datetime import timedelta
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore, Store

from latentmas_ray.errors import LinkError
from latentmas_ray.parallel.process_group import GlooPair, NcclPair, ProcessPair, find_store
from latentmas_ray.transport.channel import Channel, get_count, get_field


class ChannelStore(Store):
    """A torch store over a channel: each side gets what the other sets. Raises LinkError, which torch passes on."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: Any) -> None:
        """Send a value to the peer."""
        self._values[key] = bytes(value)
        self._channel.send(key=key, value=self._values[key])

    def get(self, key: str) -> bytes:
        """Wait for a value from the peer."""
        while key not in self._values:
            if not self._receive():
                raise LinkError("the peer has not sent all values of the rendezvous")
        return self._values[key]

    def wait(self, keys: Any, timeout: timedelta | None = None) -> None:
        """Wait for all keys."""
        for key in keys:
            self.get(key)

    def finish(self) -> None:
        """Wait until both sides are done; then the channel is free for other messages."""
        self._channel.send(joined=True)
        while self._receive():
            pass

    def _receive(self) -> bool:
        message = self._channel.receive()
        if message.get("joined") is True:
            return False
        self._values[get_field(message, "key", str)] = get_field(message, "value", bytes)
        return True


def make_pair(
    kind: str, rank: int, channel: Channel, rendezvous: dict[str, Any], host: str, timeout: float
) -> ProcessPair:
    """Create this side of a pair; the other side calls this at the same time. Raises LinkError.

    `rendezvous` is the producer's first message, `host` this process's address.
    """
    if kind == "gloo":
        store = ChannelStore(channel)
        pair = GlooPair(store, rank, host, timeout)
        store.finish()
        return pair
    address, port = get_field(rendezvous, "host", str), get_count(rendezvous, "port")
    tcp = find_store(address, port, timeout_seconds=timeout, error_kind=LinkError)
    return NcclPair(PrefixStore(get_field(rendezvous, "prefix", str), tcp), rank, host, timeout)
