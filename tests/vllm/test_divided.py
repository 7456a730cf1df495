"""A model that is divided over two processes, each with vLLM in it: every rank reads its heads of the memory."""

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from latentmas_ray.memory import TPRank
from latentmas_ray.writing.text_engine import TextRequest
from tests.vllm import inside
from tests.vllm.asked import Asked, OwnEngine, num_equal
from tests.vllm.child import VllmProcess, Written
from tests.vllm.conftest import ARGUMENTS

NUM_RANKS = 2


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def heads_of(request: TextRequest, rank: int) -> TextRequest:
    """What a rank is sent: its half of the heads."""
    if request.memory is None:
        return request
    parts = []
    for part in request.memory.parts:
        count = part.kv_LCHTD.shape[2] // NUM_RANKS
        parts.append(replace(part, kv_LCHTD=part.kv_LCHTD[:, :, rank * count : (rank + 1) * count].clone()))
    return replace(request, memory=replace(request.memory, parts=tuple(parts)))


# Slow: two more processes with vLLM. `test_answers.py` has the same engine undivided.
@pytest.mark.slow
def test_both_ranks_write_the_same_answers(own: OwnEngine) -> None:
    asked: list[Asked] = [
        *own.ask("seq", "notes", 6, topology="sequential", latent_steps=20),
        *own.ask("hier", "notes", 6, topology="hierarchical", latent_steps=20, temperature=1.1),
        *own.ask("one", "chain", 6, topology="single", method="single"),
    ]
    place = ("127.0.0.1", free_port())
    with ThreadPoolExecutor(NUM_RANKS) as pool:
        begun = [
            pool.submit(VllmProcess, **ARGUMENTS, shard=TPRank(rank, NUM_RANKS), rendezvous=place, group="divided-test")
            for rank in range(NUM_RANKS)
        ]
        ranks = [one.result() for one in begun]
        try:

            def write(requests_of: Sequence[Sequence[TextRequest]]) -> list[dict[str, Written]]:
                return list(pool.map(VllmProcess.write, ranks, requests_of))

            per_rank = [[heads_of(one.request, rank) for one in asked] for rank in range(NUM_RANKS)]
            first, second = write(per_rank)
            assert first == second
            assert num_equal(asked, first) == len(asked)
            # A memory that only one rank can load fails on both: else they would compute different batches.
            (broken,) = [heads_of(asked[1].request, 0)]
            assert broken.memory is not None
            parts = tuple(replace(part, kv_LCHTD=part.kv_LCHTD.to("meta")) for part in broken.memory.parts)
            per_rank[0][1] = replace(broken, memory=replace(broken.memory, parts=parts))
            first, second = write(per_rank)
            assert first[broken.key].end == second[broken.key].end == "error"
            assert num_equal(asked, first) == num_equal(asked, second) == len(asked) - 1
            assert [rank.call(inside.num_held) for rank in ranks] == [(0, 0)] * NUM_RANKS
        finally:
            for rank in ranks:
                rank.close()
