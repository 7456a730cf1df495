"""Ranks of one replica, each in a process of its own.

The processes outlive a test, for it takes long to import torch; their group does not.
"""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from latentmas_ray.memory import TPRank
from latentmas_ray.parallel.process_group import RankGroup, find_store, open_store

JOB_SECONDS = 120.0  # a bound for a busy machine; the jobs of the tests take a few
HOST = "127.0.0.1"

Job = Callable[..., Any]


class RankProcesses:
    """`num_ranks` processes that carry out jobs together, one after another."""

    def __init__(self, num_ranks: int, *, use_gpus: bool = False) -> None:
        """With `use_gpus` each has a GPU of its own, as Ray's actors have."""
        self._num_ranks, self._use_gpus = num_ranks, use_gpus
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, job: Job, *arguments: Any, step_seconds: float = 60.0) -> list[Any]:
        """What `job(ranks, *arguments)` returns on each rank, in order; None of one whose process ended before that.

        Whatever it raises there is raised here. `job` is a function of a module, since it goes to other processes.
        """
        if not all(process.is_alive() for process in self._processes) or not self._processes:
            self._begin()
        deadline = time.monotonic() + JOB_SECONDS
        for pipe in self._pipes:
            pipe.send((job, arguments))
        # No rank is waited for in the job's own seconds while it imports what the job needs.
        for rank in range(self._num_ranks):
            self._receive(rank, deadline)
        meeting = open_store(HOST, timeout_seconds=step_seconds)
        for rank, pipe in enumerate(self._pipes):
            pipe.send((TPRank(rank, self._num_ranks), meeting.port, step_seconds))
        results = [self._receive(rank, deadline) for rank in range(self._num_ranks)]
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def end(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []

    def _begin(self) -> None:
        self.end()
        spawn = multiprocessing.get_context("spawn")
        for rank in range(self._num_ranks):
            ours, theirs = spawn.Pipe()
            gpus = str(rank) if self._use_gpus else ""
            process = spawn.Process(target=_serve, args=(theirs, gpus), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def _receive(self, rank: int, deadline: float) -> Any:
        if not self._pipes[rank].poll(max(0.0, deadline - time.monotonic())):
            self.end()
            raise AssertionError(f"rank {rank} did not end its job within {JOB_SECONDS:.0f} s")
        try:
            return self._pipes[rank].recv()
        except EOFError:
            return None


def _serve(pipe: Connection, gpus: str) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus  # nothing has asked for a GPU yet
    torch.set_num_threads(1)
    while True:
        job, arguments = pipe.recv()
        pipe.send("has its job")
        shard, port, step_seconds = pipe.recv()
        try:
            meeting = find_store(HOST, port, timeout_seconds=step_seconds)
            ranks = RankGroup(meeting, shard, timeout_seconds=step_seconds)
            try:
                result = job(ranks, *arguments)
            finally:
                ranks.abort()
        except BaseException:  # noqa: BLE001  the test that waits for it wants to know, whatever it is
            result = AssertionError(f"{shard}:\n{traceback.format_exc()}")
        pipe.send(result)
