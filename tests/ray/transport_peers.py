"""Actors that pack and read pieces, for the tests of transports. Ray's workers import this module."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import torch

from latentmas_ray.authentication import RunKey
from latentmas_ray.errors import LatentMASError
from latentmas_ray.memory import KVCacheSpec, Segment, SegmentChunk
from latentmas_ray.transport import Transport
from tests.cases.memory import SPEC, cut, make_segment, reshaped

MEGABYTE = 2**20


@dataclass(frozen=True)
class Case:
    """Parameters of a segment: every process makes the same segment from them."""

    turns: tuple[tuple[int, int], ...] = ((5, 2), (1, 0), (3, 4))
    dtype: str = "float32"
    part: int | None = None  # the segment's first or second piece instead of the whole
    windows: tuple[tuple[int, int], ...] | None = None
    megabytes: int = 0  # instead: a segment of about that size
    seed: int = 0

    @property
    def spec(self) -> KVCacheSpec:
        if self.megabytes:  # 64 KiB a token
            return reshaped(SPEC, dtype=self.dtype, num_layers=8, num_kv_heads=8, head_dim=128 * 4 // _size(self.dtype))
        return reshaped(SPEC, dtype=self.dtype)

    @lru_cache(maxsize=2)  # noqa: B019  a case is a plain value, and few are kept
    def piece(self) -> SegmentChunk:
        turns = ((self.megabytes * MEGABYTE // self.spec.bytes_per_token, 0),) if self.megabytes else self.turns
        segment: Segment = make_segment(turns, windows=self.windows, spec=self.spec, seed=self.seed)
        if self.part is None:
            return SegmentChunk.whole(segment)
        return cut(segment, [prompt for prompt, _ in turns])[self.part]


def _size(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


@dataclass(frozen=True)
class Read:
    """How a read went: what was wrong with the bytes or with the attempt, and how long it took."""

    error: str
    message: str
    seconds: float
    num_good: int = 0  # reads before it that were right


class Peer:
    """One process of a transport, on the CPU."""

    def __init__(self, transports: Mapping[str, Transport], name: str, key: RunKey) -> None:
        self._key = key
        torch.set_num_threads(1)
        self._transports = transports
        self._opened: set[str] = set()
        self._held: list[tuple[SegmentChunk, Case]] = []
        self.use(name)

    def use(self, name: str) -> None:
        """This transport from now on."""
        self._transport = self._transports[name]
        if name not in self._opened:
            self._transport.open(self._key)
            self._opened.add(name)

    def pid(self) -> int:
        return os.getpid()

    def pack(self, case: Case) -> Any:
        return self._transport.pack(case.piece())

    def pack_many(self, cases: Sequence[Case]) -> list[Any]:
        return [self._transport.pack(case.piece()) for case in cases]

    def release(self, *payloads: Any) -> None:
        for payload in payloads:
            self._transport.release(payload)

    def read(self, payload: Any, case: Case, spec: KVCacheSpec | None = None) -> Read:
        return self._read(payload, case, spec)[0]

    def read_many(self, payloads: Sequence[Any], cases: Sequence[Case]) -> list[Read]:
        return [self.read(payload, case) for payload, case in zip(payloads, cases, strict=True)]

    def read_and_hold(self, payload: Any, case: Case) -> Read:
        """Keep the piece, for `check_held`."""
        read, piece = self._read(payload, case)
        self._held += [] if piece is None else [(piece, case)]
        return read

    def check_held(self) -> list[str]:
        """Return whether the stored chunk is unchanged, and drop it."""
        held, self._held = self._held, []
        return [difference(piece, case.piece()) for piece, case in held]

    def read_until_it_fails(self, payload: Any, case: Case, limit_seconds: float) -> Read:
        """Again and again; the first read that fails, or the last one when the time is up."""
        begin, good = time.monotonic(), 0
        while True:
            read = self.read(payload, case)
            if read.error or time.monotonic() - begin > limit_seconds:
                return replace(read, num_good=good)
            good += 1

    def num_descriptors(self) -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def shared_bytes(self) -> int:
        """Shared memory in this process's address space, as the kernel counts it."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssShmem"))

    def be_busy(self, until: Path, at_most_seconds: float) -> None:
        """Compute until a file is there, and wait with the interpreter's lock free only in between."""
        end, one = time.monotonic() + at_most_seconds, torch.ones(256, 256)
        while time.monotonic() < end and not until.exists():
            one = (one @ one).clamp(0, 1)

    def _read(self, payload: Any, case: Case, spec: KVCacheSpec | None = None) -> tuple[Read, SegmentChunk | None]:
        expected = case.piece()
        begin = time.monotonic()
        try:
            piece = self._transport.unpack(payload, expected=spec or case.spec)
        except LatentMASError as error:
            return Read(type(error).__name__, str(error), time.monotonic() - begin), None
        seconds = time.monotonic() - begin
        return Read(difference(piece, expected), "", seconds), piece


def difference(piece: SegmentChunk, expected: SegmentChunk) -> str:
    """In what two pieces differ; nothing if in nothing."""
    for name in ("meta", "begins", "lengths"):
        if getattr(piece, name) != getattr(expected, name):
            return name
    if not torch.equal(piece.kv_LCHTD.view(torch.uint8), expected.kv_LCHTD.view(torch.uint8)):
        return "kv"
    if not torch.equal(piece.recompute_inputs.token_ids_T, expected.recompute_inputs.token_ids_T):
        return "token ids"
    return "" if torch.equal(piece.recompute_inputs.latents_NE, expected.recompute_inputs.latents_NE) else "latents"


def start(transports: Mapping[str, Transport], name: str, key: RunKey) -> Any:
    """A peer in an actor of its own."""
    return ray.remote(num_cpus=0)(Peer).remote(transports, name, key)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that stands still, as one would that swaps or is being debugged."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # the test has ended it
            os.kill(pid, signal.SIGCONT)


@contextmanager
def killed_after(pid: int, seconds: float) -> Iterator[None]:
    """The process dies while the body runs."""
    timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    timer.start()
    try:
        yield
    finally:
        timer.join()
