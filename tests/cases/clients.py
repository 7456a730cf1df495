"""Clients of a running server: those that read their answer, and those that leave."""

import asyncio
import time
from collections.abc import Sequence

import aiohttp

from latentmas_ray.bench.serve.load import closed_loop
from latentmas_ray.bench.serve.reply import ChatClient, ChatQuestion, ClientReply
from latentmas_ray.serve.teams.served import ServedTeams

TEAM = "latentmas/sequential"


def chat_questions(texts: Sequence[str], model: str = TEAM) -> list[ChatQuestion]:
    return [ChatQuestion(model=model, key=f"q{number}", text=text) for number, text in enumerate(texts)]


async def ask_all(
    url: str, questions: Sequence[ChatQuestion], clients: int, *, max_tokens: int = 48, timeout: float = 600.0
) -> list[ClientReply]:
    """Ask all questions with streams, so many at a time."""
    async with ChatClient(url, max_tokens=max_tokens, timeout=timeout) as client:
        return await closed_loop(client, questions, clients)


async def leave(session: aiohttp.ClientSession, url: str, number: int, text: str, model: str = TEAM) -> None:
    """Ask, and leave by the number: before an answer that comes whole, before the first event, or after one."""
    streams, reads = number % 3 != 0, number % 3 == 2
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": streams, "temperature": 0}

    async def ask() -> None:
        async with session.post(f"{url}/chat/completions", json=body) as response:
            async for _ in response.content:
                if reads:
                    return

    task = asyncio.create_task(ask())
    # Some leave while the request is read, some while it waits, most while agents work on it.
    _, unfinished = await asyncio.wait([task], timeout=600.0 if reads else 0.02 * (number % 7))
    for one in unfinished:
        one.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def leave_all(url: str, texts: Sequence[str], clients: int, model: str = TEAM) -> None:
    """Ask each text and leave, so many at a time."""
    waiting = iter(enumerate(texts))
    # A connection of its own each, which is closed when its client leaves.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one_after_another() -> None:
            for number, text in waiting:
                await leave(session, url, number, text, model)

        await asyncio.gather(*(one_after_another() for _ in range(clients)))


def wait_until_idle(teams: ServedTeams) -> None:
    """Wait until no question is left; a leak ends in the time limit of the tests' caller."""
    while teams.num_running or teams.num_waiting:
        time.sleep(0.05)
