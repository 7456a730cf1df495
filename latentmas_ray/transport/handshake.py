"""How two processes of a run show each other that they belong to it, without sending the key.

    reader                                   producer
    LMH1, 32 random bytes                →
                                         ←   32 random bytes; the producer's proof
    the reader's proof                   →

All messages have a fixed size, so nothing is parsed before the proofs. A proof is derived from the run's key, the role,
the producer's identity and both random values: it cannot be repeated, sent back, or used with another producer. The
keys of the connection's messages are derived from the same values, so a process in the middle learns and changes
nothing.
"""

import secrets
import socket
import struct
import time
from dataclasses import dataclass

from latentmas_ray.authentication import RunKey, is_equal
from latentmas_ray.errors import LinkError

IDENTITY_BYTES = 16
_MAGIC = b"LMH1"
_NONCE_BYTES = _PROOF_BYTES = 32
_HELLO = struct.Struct(f"<4s{_NONCE_BYTES}s")
_ANSWER = struct.Struct(f"<{_NONCE_BYTES}s{_PROOF_BYTES}s")


@dataclass(frozen=True, repr=False)
class ConnectionKeys:
    """The keys of one connection, from one side: its messages, and those of its peer."""

    send: bytes
    receive: bytes


class _Secrets:
    """What both sides derive once they have both random values."""

    def __init__(self, key: RunKey, identity: bytes, reader_nonce: bytes, producer_nonce: bytes) -> None:
        transcript = _MAGIC + identity + reader_nonce + producer_nonce
        self.reader_proof = key.derive("proof of a reader", transcript)
        self.producer_proof = key.derive("proof of a producer", transcript)
        self._from_reader = key.derive("messages of a reader", transcript)
        self._from_producer = key.derive("messages of a producer", transcript)

    def keys(self, *, is_reader: bool) -> ConnectionKeys:
        """The keys of the reader's side or of the producer's."""
        own, other = self._from_reader, self._from_producer
        return ConnectionKeys(own, other) if is_reader else ConnectionKeys(other, own)


def introduce(connection: socket.socket, key: RunKey, identity: bytes, deadline: float) -> ConnectionKeys:
    """The reader's side; `deadline` (seconds of the monotonic clock) is for all of it.

    Raises LinkError if the peer is not that producer of this run, TimeoutError and OSError like the socket.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    connection.settimeout(max(0.001, deadline - time.monotonic()))
    connection.sendall(_HELLO.pack(_MAGIC, nonce))
    theirs, proof = _ANSWER.unpack(receive_exactly(connection, _ANSWER.size, deadline))
    shared = _Secrets(key, identity, nonce, theirs)
    if not is_equal(proof, shared.producer_proof):
        raise LinkError("the peer does not have the key of this run")
    connection.sendall(shared.reader_proof)
    return shared.keys(is_reader=True)


class Examination:
    """The producer's side of one connection, as a state that is given bytes: it never waits."""

    def __init__(self, key: RunKey, identity: bytes) -> None:
        self._key, self._identity = key, identity
        self._received = b""
        self._secrets: _Secrets | None = None

    @property
    def num_missing(self) -> int:
        """The bytes that the peer has to send next."""
        return (_HELLO.size if self._secrets is None else _PROOF_BYTES) - len(self._received)

    def add(self, received: bytes) -> tuple[bytes, ConnectionKeys | None]:
        """Take at most `num_missing` bytes; return what is to be sent, and the keys once the peer has proved itself.

        Raises LinkError if it does not belong to the run.
        """
        self._received += received
        if not _MAGIC.startswith(self._received[: len(_MAGIC)]) and self._secrets is None:
            raise LinkError("the peer uses another protocol")
        if self.num_missing:
            return b"", None
        message, self._received = self._received, b""
        if self._secrets is None:
            nonce = secrets.token_bytes(_NONCE_BYTES)
            self._secrets = _Secrets(self._key, self._identity, _HELLO.unpack(message)[1], nonce)
            return _ANSWER.pack(nonce, self._secrets.producer_proof), None
        if not is_equal(message, self._secrets.reader_proof):
            raise LinkError("the peer does not have the key of this run")
        return b"", self._secrets.keys(is_reader=False)


def examine(connection: socket.socket, key: RunKey, identity: bytes, deadline: float) -> ConnectionKeys:
    """The producer's side for a connection that may be waited for. Raises like `introduce`."""
    examination, keys = Examination(key, identity), None
    while keys is None:
        answer, keys = examination.add(receive_exactly(connection, examination.num_missing, deadline))
        connection.sendall(answer)
    return keys


def receive_exactly(connection: socket.socket, num_bytes: int, deadline: float) -> bytes:
    """Receive this many bytes before the deadline (seconds of the monotonic clock), however slowly they come.

    Raises TimeoutError and OSError like the socket, ConnectionAbortedError if the peer closes the connection.
    """
    received = bytearray()
    while len(received) < num_bytes:
        if (remaining := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        connection.settimeout(remaining)
        if not (more := connection.recv(num_bytes - len(received))):
            raise ConnectionAbortedError("the peer has closed the connection")
        received += more
    return bytes(received)
