"""What moves segments between actors: one file per transport, and the choice between them."""

from latentmas_ray.config import CodecName, TransportName
from latentmas_ray.errors import ConfigError
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.loopback import Loopback
from latentmas_ray.transport.object_store import ObjectStore

__all__ = ["Loopback", "ObjectStore", "Transport", "choose_transport"]


def choose_transport(name: TransportName, *, same_process: bool, codec: CodecName = "none") -> Transport:
    """The transport that a run asked for; `auto` takes the cheapest that reaches the readers.

    Raises ConfigError for one that cannot reach them, or that sends nothing which a codec could make smaller.
    """
    if name == "loopback" and not same_process:
        raise ConfigError("transport", name, "loopback stays within one process; use auto or object_store")
    if name == "loopback" and codec != "none":
        raise ConfigError("codec", codec, "loopback sends nothing; use transport auto or object_store")
    if name == "loopback" or (name == "auto" and same_process and codec == "none"):
        return Loopback()
    return ObjectStore().with_codec(codec)
