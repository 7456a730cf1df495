"""How the two sides of a link become a pair: they tell each other where to connect, by way of a store, as torch wants.

Gloo needs a store for as long as it takes to connect, and has one that lives in the connection of the link itself: no
other port is open, and no name is looked up (torch's own store asks for its clients' names, which takes seconds where
nobody knows them). NCCL may need a store at any time and has torch's.
"""

from datetime import timedelta
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore, Store

from latentmas_ray.errors import LinkError
from latentmas_ray.parallel.process_group import GlooPair, NcclPair, ProcessPair, find_store
from latentmas_ray.transport.channel import Channel


class ChannelStore(Store):
    """What either side sets, the other one gets. Called by torch; raises LinkError, which torch passes on."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: Any) -> None:
        """Tell the peer."""
        self._values[key] = bytes(value)
        self._channel.send(key=key, value=self._values[key])

    def get(self, key: str) -> bytes:
        """Wait for the peer to set it."""
        while key not in self._values:
            if not self._receive():
                raise LinkError("the peer has told less than is needed")
        return self._values[key]

    def wait(self, keys: Any, timeout: timedelta | None = None) -> None:
        """Wait for all of these."""
        for key in keys:
            self.get(key)

    def finish(self) -> None:
        """Both sides are done: from here on the channel carries something else."""
        self._channel.send(joined=True)
        while self._receive():
            pass

    def _receive(self) -> bool:
        message = self._channel.receive()
        key, value = message.get("key"), message.get("value")
        if isinstance(key, str) and isinstance(value, bytes):
            self._values[key] = value
            return True
        if message.get("joined"):
            return False
        raise LinkError("the peer speaks another language")


def make_pair(
    kind: str, rank: int, channel: Channel, rendezvous: dict[str, Any], host: str, timeout: float
) -> ProcessPair:
    """This side's half; the other side calls this at the same time. Raises LinkError.

    `rendezvous` is what the producer said, `host` this process's own address.
    """
    if kind == "gloo":
        store = ChannelStore(channel)
        pair = GlooPair(store, rank, host, timeout)
        store.finish()
        return pair
    try:
        tcp = find_store(rendezvous["host"], rendezvous["port"], timeout_seconds=timeout, error_kind=LinkError)
        return NcclPair(PrefixStore(rendezvous["prefix"], tcp), rank, host, timeout)
    except (KeyError, TypeError) as error:
        raise LinkError(f"the producer does not say where its store is: {error}") from error
