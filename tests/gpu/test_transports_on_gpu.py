"""Memory that goes from GPU to GPU, or stays on one, without the CPU: two processes each."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from latentmas_ray.authentication import ChunkId, RunKey
from latentmas_ray.errors import LatentMASError, WireError
from latentmas_ray.memory import Segment, SegmentChunk
from latentmas_ray.transport import CudaIpc, Nccl, Transport
from latentmas_ray.transport.handles import sign_handle
from tests.cases.memory import make_segment, spec_of

SPEC = spec_of("bfloat16")
TIMEOUT_SECONDS = 60.0
KEY = RunKey(b"k" * 32)


def _segment(seed: int) -> Segment:
    return make_segment([(500, 20), (1, 0)], spec=SPEC, seed=seed)


def _produce(connection: Connection, make: Callable[[], Transport], gpu: int) -> None:
    """Packs what it is told to, releases it, and dies when the connection does."""
    torch.cuda.set_device(gpu)
    transport = make()
    transport.open(KEY)
    while True:
        verb, argument = connection.recv()
        if verb == "pack":
            segment = _segment(argument)
            on_gpu = Segment.from_tensor(
                segment.spec,
                segment.kv_LCHTD.cuda(),
                segment.lengths,
                segment.turn_starts,
                segment.meta.offsets,
                segment.recompute_inputs,
            )
            connection.send(transport.pack(SegmentChunk.whole(on_gpu)))
        else:
            transport.release(argument)
            connection.send(None)


class Producer:
    """The other process."""

    def __init__(self, make: Callable[[], Transport], gpu: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_produce, args=(theirs, make, gpu), daemon=True)
        self.process.start()

    def ask(self, verb: str, argument: Any) -> Any:
        self._connection.send((verb, argument))
        assert self._connection.poll(TIMEOUT_SECONDS)
        return self._connection.recv()


@pytest.mark.parametrize(("make", "num_gpus"), [(CudaIpc, 1), (Nccl, 2)], ids=["cuda_ipc", "nccl"])
def test_memory_arrives_on_the_gpu_until_it_is_released(make: Callable[[], Transport], num_gpus: int) -> None:
    if torch.cuda.device_count() < num_gpus:
        pytest.skip(f"{num_gpus} GPUs are not here")
    reader, producer = make(), Producer(make, num_gpus - 1)
    reader.open(KEY)
    try:
        held = []
        for seed in range(4):
            payload = producer.ask("pack", seed)
            held.append(reader.unpack(payload, expected=SPEC))
            again = reader.unpack(payload, expected=SPEC)
            assert torch.equal(again.kv_LCHTD, held[-1].kv_LCHTD)
            _assert_altered_is_refused(reader, payload)
            producer.ask("release", payload)
            with pytest.raises(LatentMASError, match="gone"):
                reader.unpack(payload, expected=SPEC)
        for seed, chunk in enumerate(held):
            assert chunk.kv_LCHTD.is_cuda
            assert torch.equal(chunk.kv_LCHTD.cpu(), _segment(seed).kv_LCHTD)
        last = producer.ask("pack", 9)
        producer.process.kill()
        producer.process.join()
        with pytest.raises(LatentMASError):
            reader.unpack(last, expected=SPEC)
    finally:
        producer.process.kill()
        reader.close()


def _assert_altered_is_refused(reader: Transport, payload: Any) -> None:
    for changes in ({"num_bytes": payload.num_bytes - 1}, {"checksum": bytes(32)}, {"header": payload.header + b"x"}):
        with pytest.raises(WireError, match="does not match"):
            reader.unpack(replace(payload, **changes), expected=SPEC)
    with pytest.raises(WireError, match="another segment"):
        reader.unpack(payload, expected=SPEC, chunk_id=ChunkId("another"))
    authenticator = reader.authenticator
    signed = sign_handle(replace(payload, checksum=bytes(32)), authenticator)
    with pytest.raises(WireError, match=r"the tag of its \d+ bytes of KV"):
        reader.unpack(signed, expected=SPEC)
