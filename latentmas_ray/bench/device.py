"""Measures what a layout is predicted from: the bandwidth of a device's memory, its matrix products, its links, and a
hand-over between two processes. It takes a few seconds."""

import os
import shutil
import time
from collections.abc import Callable
from multiprocessing import shared_memory
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentmas_ray.bench.machine import processor
from latentmas_ray.bench.side_process import SideProcess, serve_side
from latentmas_ray.errors import RunError
from latentmas_ray.placement import Hardware, LinkSpeeds
from latentmas_ray.units import format_bytes

_REPEATS = 3  # after one that is not counted; the fastest counts, as other processes only slow it down
_LARGE = 2**28  # bytes that are copied on a processor: no cache holds them
_SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices
_SHARED_MEMORY = Path("/dev/shm")
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def measure_hardware() -> Hardware:
    """Return the figures that this machine reaches: of its first GPU, or of its processor if it has none.

    Bandwidth is that of a copy, which reads and writes. The network between nodes is not measured; it has the default.
    Raises RunError if shared memory has no room for the hand-over.
    """
    _check_room()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bandwidth = _copy_bandwidth(device)
    between_processes = _hand_over_speed()
    is_gpu = device == "cuda"
    between_gpus = _gpu_to_gpu() if is_gpu else None
    defaults = LinkSpeeds()
    links = LinkSpeeds(
        same_gpu=bandwidth / 2 if is_gpu else defaults.same_gpu,
        nvlink=between_gpus,
        pcie=_host_to_gpu() if is_gpu else defaults.pcie,
        shared_memory=between_processes,
        network=defaults.network,
    )
    name = torch.cuda.get_device_properties(0).name if is_gpu else processor()
    return Hardware(
        name=f"{name} (measured)",
        memory_bytes=torch.cuda.get_device_properties(0).total_memory if is_gpu else None,
        bytes_per_second=bandwidth,
        peak_flops={dtype: _matmul_flops(device, kind) for dtype, kind in _DTYPES.items()},
        nvlink=between_gpus,
        pcie=links.pcie,
        network=links.network,
        cores=None if is_gpu else len(os.sched_getaffinity(0)),
        source="latentmas plan --measure; network: not measured",
        links=links,
        is_measured=True,
    )


def _check_room() -> None:
    """A write to shared memory that has no room ends the process: containers often have 64 MB."""
    if not _SHARED_MEMORY.is_dir():
        return
    if (free := shutil.disk_usage(_SHARED_MEMORY).free) < _LARGE:
        raise RunError(
            f"{_SHARED_MEMORY} has {format_bytes(free)} free, and the hand-over that is measured needs "
            f"{format_bytes(_LARGE)}: enlarge it, in Docker with --shm-size=8g"
        )


def _fastest(work: Callable[[], Any], device: str) -> float:
    """Return the seconds of the fastest of several repeats."""
    seconds = []
    for _ in range(1 + _REPEATS):
        _finish(device)
        begin = time.perf_counter()
        work()
        _finish(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _copy_bandwidth(device: str) -> float:
    """Return the bytes per second that a copy reads and writes together."""
    num_bytes = _LARGE if device == "cpu" else 4 * _LARGE
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * num_bytes / _fastest(lambda: target.copy_(source), device)


def _matmul_flops(device: str, dtype: torch.dtype) -> float:
    """Return the operations per second of a product of square matrices."""
    side = _SIDE[device]
    if device == "cpu" and dtype is torch.float16:
        side //= 4  # many processors compute it slowly
    one = torch.ones(side, side, dtype=dtype, device=device)
    other = torch.ones(side, side, dtype=dtype, device=device)
    return 2 * side**3 / _fastest(lambda: one @ other, device)


def _host_to_gpu() -> float:
    source = torch.ones(_LARGE, dtype=torch.uint8).pin_memory()
    target = torch.zeros(_LARGE, dtype=torch.uint8, device="cuda")
    return _LARGE / _fastest(lambda: target.copy_(source, non_blocking=True), "cuda")


def _gpu_to_gpu() -> float | None:
    """Return the speed between the first two GPUs; None if there is one, or they reach each other over PCIe alone."""
    if torch.cuda.device_count() < 2 or not torch.cuda.can_device_access_peer(0, 1):
        return None
    source = torch.ones(4 * _LARGE, dtype=torch.uint8, device="cuda:0")
    target = torch.zeros(4 * _LARGE, dtype=torch.uint8, device="cuda:1")

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize(1)

    return 4 * _LARGE / _fastest(copy, "cuda")


def _hand_over_speed() -> float:
    """Return the bytes per second of a hand-over between two processes of this machine: one writes into shared memory,
    the other copies it out and answers."""
    source = np.ones(_LARGE, dtype=np.uint8)
    shared = shared_memory.SharedMemory(create=True, size=_LARGE)
    try:
        with SideProcess("reading", _serve_reader, shared.name) as side:
            side.receive()

            def hand_over() -> None:
                np.copyto(np.ndarray(_LARGE, dtype=np.uint8, buffer=shared.buf), source)
                side.ask(_LARGE)

            seconds = _fastest(hand_over, "cpu")
    finally:
        shared.close()
        shared.unlink()
    return _LARGE / seconds


def _serve_reader(name: str, segment: str, connection: Connection) -> None:
    """Copy shared memory out for each message, which is the number of bytes."""

    def start() -> tuple[Any, Callable[[Any], Any]]:
        shared = shared_memory.SharedMemory(name=segment)
        own = np.ones(shared.size, dtype=np.uint8)

        def copy_out(num_bytes: int) -> int:
            np.copyto(own[:num_bytes], np.ndarray(num_bytes, dtype=np.uint8, buffer=shared.buf))
            return num_bytes

        return "ready", copy_out

    serve_side(name, connection, start)
