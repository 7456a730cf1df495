"""Clients that leave: their questions end, and nothing of them is left."""

import asyncio
import gc

import psutil
import pytest
import torch

from latentmas_ray.serve.teams.reply import Reply
from latentmas_ray.tasks import load_questions
from tests.cases.clients import ask_all, chat_questions, leave_all, wait_until_idle
from tests.cases.running_server import RunningServer
from tests.ray.actor_cases import wait_until

NUM_WARM_UP = 100
NUM_CLIENTS = 32
# Of this process, which is server, team and clients. The allocator keeps what the largest batch took, and how large
# that is depends on when clients leave. A segment that is kept is half a megabyte.
MAX_GROWTH_BYTES = 60 * 2**20


def texts(count: int) -> list[str]:
    loaded = [question.question for question in load_questions("chain", 50)]
    return [loaded[number % len(loaded)] for number in range(count)]


def num_replies() -> int:
    gc.collect()  # what holds one may be a cycle that was dropped since
    return sum(type(one) is Reply for one in gc.get_objects())


def tensor_bytes() -> int:
    gc.collect()
    return sum(one.nbytes for one in gc.get_objects() if type(one) is torch.Tensor)


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_clients_that_leave_leave_nothing(server: RunningServer, count: int) -> None:
    process = psutil.Process()
    asyncio.run(leave_all(server.url, texts(NUM_WARM_UP), NUM_CLIENTS))
    wait_until_idle(server.teams)
    tensors = tensor_bytes()
    files, threads, memory = process.num_fds(), process.num_threads(), process.memory_info().rss
    asyncio.run(leave_all(server.url, texts(count), NUM_CLIENTS))
    wait_until_idle(server.teams)
    while process.num_fds() > files:  # sockets that are being closed
        gc.collect()
    assert tensor_bytes() <= tensors + 2**20
    wait_until(lambda: num_replies() == 0, "the end of what held the replies")
    assert process.num_threads() <= threads + 4  # pools of threads that had not all their threads
    assert process.memory_info().rss - memory < MAX_GROWTH_BYTES
    assert server.num_open == 0


def test_those_who_stay_get_their_answers_while_others_leave(server: RunningServer) -> None:
    asked = chat_questions(texts(8))
    alone = asyncio.run(ask_all(server.url, asked, 1))

    async def together() -> list[object]:
        staying, _ = await asyncio.gather(ask_all(server.url, asked, 4), leave_all(server.url, texts(40), 8))
        return [(reply.question.key, reply.outcome, reply.text) for reply in staying]

    expected = [(reply.question.key, "answered", reply.text) for reply in alone]
    assert sorted(asyncio.run(together())) == sorted(expected)
