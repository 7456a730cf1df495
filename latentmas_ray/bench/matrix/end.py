"""One end of many links: sends segments and receives several at the same time. It lives in an actor."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from latentmas_ray.authentication import RunKey
from latentmas_ray.bench.link_limits import Buffers, TcpReceiver, TcpSender
from latentmas_ray.bench.used_memory import available_bytes
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.transport import Place, Transport, find_available, gpu_in_use
from latentmas_ray.transport.links.probe import whole_chunk


@dataclass(frozen=True)
class EndFacts:
    """What an end says of its process."""

    gpu: str | None  # the UUID of the GPU on which its memory is
    available: frozenset[str]  # what transports may need, and is there
    free_bytes: int  # of its machine's memory
    port: int  # where it receives plain TCP


@dataclass(frozen=True)
class Timed:
    """A call's seconds, and the transport that moved the bytes."""

    seconds: float
    transport: str = ""


class MatrixEnd:
    """Sends the same segment again and again, and receives the segments of others."""

    def __init__(self, spec: KVCacheSpec, num_tokens: int, num_threads: int, key: RunKey) -> None:
        """`key` is the same for all ends."""
        torch.set_num_threads(num_threads)
        self._spec, self._num_tokens, self._key = spec, num_tokens, key
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._num_bytes = num_tokens * spec.bytes_per_token
        self._packed: list[Any] = []
        self._read: list[Any] = []
        self._targets: list[Tensor] = []

    def start(self, host: str) -> EndFacts:
        """Listen for plain TCP at `host`, and say what this process has."""
        self._tcp_receiver = TcpReceiver(host, self._key)
        gpu = gpu_in_use() if self._device.type == "cuda" else None
        return EndFacts(gpu, find_available(), available_bytes(), self._tcp_receiver.port)

    def prepare(self, transport: Transport, node_id: str, gpu: str | None, num_streams: int) -> None:
        """Open the transport, and allocate and touch memory to receive `num_streams` segments at the same time."""
        self._transport = transport.at(Place(node_id, gpu))
        self._transport.open(self._key)
        self._source = torch.randint(0, 256, (self._num_bytes,), dtype=torch.uint8, device=self._device)
        self._targets = [torch.ones_like(self._source) for _ in range(num_streams)]
        self._streams = ThreadPoolExecutor(num_streams)
        self._buffers = Buffers(self._num_bytes)
        self._tcp_receiver.set_target(self._buffers.target)

    @torch.inference_mode()
    def send(self) -> Any:
        """Return the payload of the segment, for any number of readers."""
        body = self._transport.reserve(self._num_bytes, self._device)
        body.copy_(self._source)
        payload = self._transport.pack(whole_chunk(self._spec, self._num_tokens, body))
        if type(self._transport).release is not Transport.release:
            self._packed.append(payload)
        return payload

    def receive(self, fetches: Sequence[Callable[[], Any]]) -> Timed:
        """Get each payload with its function, unpack it and copy its bytes, all at once; return the seconds."""
        begun = time.perf_counter()
        shares = [fetches[index :: len(self._targets)] for index in range(len(self._targets))]
        names = list(self._streams.map(self._receive_in_turn, self._targets, shares))
        return Timed(time.perf_counter() - begun, next((name for name in names if name), ""))

    @torch.inference_mode()
    def _receive_in_turn(self, target: Tensor, fetches: Sequence[Callable[[], Any]]) -> str:
        name = ""
        for fetch in fetches:
            payload = fetch()
            chunk = self._transport.unpack(payload, expected=self._spec)
            target.copy_(chunk.kv.buffer())
            name = self._transport.name_of(payload)
            if self._transport.capabilities.readers_keep:
                self._read.append(payload)
        if target.device.type == "cuda":
            torch.cuda.synchronize()
        return name

    def digest(self, *, sent: bool) -> str:
        """Return a hash of the bytes that this end sends, or of those that it received last."""
        body = self._source if sent else self._targets[0]
        return str(xxhash.xxh3_128_hexdigest(body.cpu().numpy().data))

    def release(self) -> None:
        """Free all payloads: they will not be read again."""
        payloads, self._packed, self._read = [*self._packed, *self._read], [], []
        for payload in payloads:
            self._transport.release(payload)

    def copy_seconds(self) -> Timed:
        """Return the seconds of one memcpy of a segment's bytes."""
        return Timed(self._buffers.copy_seconds())

    def tcp_seconds(self, readers: Sequence[tuple[str, int]], num_streams: int | None = None) -> Timed:
        """Return the seconds to send a segment's bytes to each reader over plain TCP, to all at the same time.

        Over so many streams to each; None: over one or two, whichever is faster, which takes one reader.
        """
        senders: list[TcpSender] = []
        try:
            senders += [TcpSender(host, port, self._key) for host, port in readers]
            if num_streams is None:
                (sender,) = senders
                return Timed(sender.seconds(self._buffers.source))
            with ThreadPoolExecutor(len(senders)) as pool:
                begun = time.perf_counter()
                list(pool.map(lambda sender: sender.seconds(self._buffers.source, num_streams), senders))
                return Timed(time.perf_counter() - begun)
        finally:
            for sender in senders:
                sender.close()

    def close(self) -> None:
        """Close the transport and all connections, and free all memory."""
        self.release()
        self._transport.close()
        self._tcp_receiver.close()
        self._buffers.close()
        self._streams.shutdown()
