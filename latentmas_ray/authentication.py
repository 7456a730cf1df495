"""The key of a run, and the tags that show that a segment comes from this run, unaltered.

The driver makes one `RunKey` per run. Ray passes it to the constructors of the run's actors, and nothing else carries
it. Keys for one purpose each are derived from it (HKDF-SHA256).

A tag is a GMAC: AES-256-GCM over associated data alone (NIST SP 800-38D). A nonce is a writer's number of a chunk and
the index of a block in it; every writer has a key of its own, derived from 16 random bytes. So no nonce is used twice
under a key.
"""

import hmac
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from latentmas_ray.errors import WireError

if TYPE_CHECKING:  # imported when a key is first used: actors start sooner
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
RUN_ID_BYTES = WRITER_BYTES = TAG_BYTES = 16
MAC_BYTES = 32
BLOCK_BYTES = 16 * 2**20  # tagged in one call, whose limit is 2^31 - 1 bytes
HEADER_BLOCK = 0  # the index of a chunk's header; the blocks of its body follow
_MAX_CALL_BYTES = 2**31 - 1
_MAX_THREADS = 4
_MAX_WRITERS = 1024  # whose derived keys are kept


class RunKey:
    """The secret that the processes of one run share. Its representation does not show it.

    Pickling copies the secret, so it must only be passed to what belongs to the run: as an argument of an actor's
    constructor.
    """

    __slots__ = ("_secret", "run_id")

    def __init__(self, secret: bytes) -> None:
        """`secret` is 32 random bytes."""
        self.run_id = b""  # public: it stands in every header
        if not isinstance(secret, bytes) or len(secret) != KEY_BYTES:
            raise ValueError(f"the key of a run has {KEY_BYTES} bytes")
        self._secret = secret
        self.run_id = self.derive("run id", num_bytes=RUN_ID_BYTES)

    @classmethod
    def generate(cls) -> "RunKey":
        """Make the key of a new run."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def derive(self, purpose: str, context: bytes = b"", *, num_bytes: int = KEY_BYTES) -> bytes:
        """Return a key for one purpose; other purposes and contexts have keys that say nothing about it."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = b"latentmas " + purpose.encode() + b"\0" + context
        return HKDF(algorithm=SHA256(), length=num_bytes, salt=None, info=info).derive(self._secret)

    def __reduce__(self) -> tuple[type["RunKey"], tuple[bytes]]:
        return RunKey, (self._secret,)

    def __repr__(self) -> str:
        return f"RunKey(run {self.run_id.hex()[:8]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunKey) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.run_id)


@cache
def process_key() -> RunKey:
    """A key that only this process has, for transports that are opened without the key of a run."""
    return RunKey.generate()


@dataclass(frozen=True)
class ChunkId:
    """Which chunk of which segment: the driver names the segments, so that an older one is not taken for another."""

    segment: str = ""
    index: int = 0


@dataclass(frozen=True)
class Stamp:
    """What the nonces of one chunk's tags are made from. Never used for two chunks."""

    writer: bytes
    number: int


class Authenticator:
    """Makes and checks tags in one process of a run. Thread-safe. It cannot be pickled: a copy would repeat nonces."""

    def __init__(self, key: RunKey) -> None:
        self.key = key
        self._lock = threading.Lock()
        self._ciphers: OrderedDict[bytes, AESGCM] = OrderedDict()  # by writer, those that were used last
        self._handle_key = key.derive("handles")
        self._start_writing()

    @property
    def run_id(self) -> bytes:
        """The public id of the run."""
        return self.key.run_id

    def new_stamp(self) -> Stamp:
        """Return a stamp that no chunk of the run has had."""
        with self._lock:
            if self._pid != os.getpid():  # a forked process
                self._start_writing()
            self._number += 1
            return Stamp(self._writer, self._number)

    def tag(self, stamp: Stamp, block: int, *parts: bytes | memoryview) -> bytes:
        """Return the tag of the concatenated parts as block number `block` of the stamp's chunk."""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(data) > _MAX_CALL_BYTES:
            raise WireError(f"{len(data)} bytes are too many for one tag; {_MAX_CALL_BYTES} are possible")
        nonce = stamp.number.to_bytes(8, "big") + block.to_bytes(4, "big")
        return self._cipher_of(stamp.writer).encrypt(nonce, b"", data)

    def tag_blocks(self, stamp: Stamp, body: memoryview) -> bytes:
        """Return the tags of a body's blocks, one after another. Large bodies are tagged in several threads."""
        blocks = [body[first : first + BLOCK_BYTES] for first in range(0, len(body), BLOCK_BYTES)]
        in_turn: Callable[..., Iterable[bytes]] = map if len(blocks) < 2 else _pool().map
        numbers = range(HEADER_BLOCK + 1, HEADER_BLOCK + 1 + len(blocks))
        return b"".join(in_turn(lambda number, block: self.tag(stamp, number, block), numbers, blocks))

    def mac(self, purpose: str, data: bytes) -> bytes:
        """Return the HMAC-SHA256 of something small that a process of the run says."""
        return hmac.digest(self._handle_key, purpose.encode() + b"\0" + data, "sha256")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        raise TypeError("an authenticator belongs to one process; send the key of the run")

    def __repr__(self) -> str:
        return f"Authenticator({self.key!r})"

    def _start_writing(self) -> None:
        self._pid = os.getpid()
        self._writer, self._number = secrets.token_bytes(WRITER_BYTES), 0

    def _cipher_of(self, writer: bytes) -> "AESGCM":
        with self._lock:
            if (cipher := self._ciphers.get(writer)) is not None:
                self._ciphers.move_to_end(writer)
                return cipher
            cipher = self._ciphers[writer] = make_cipher(self.key.derive("segments", writer))
            if len(self._ciphers) > _MAX_WRITERS:
                self._ciphers.popitem(last=False)
            return cipher


def make_cipher(key: bytes) -> "AESGCM":
    """AES-256-GCM under this key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def is_equal(one: bytes, other: bytes) -> bool:
    """Whether two tags are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), "tags")
