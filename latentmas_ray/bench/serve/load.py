"""The two kinds of load. A closed loop asks as fast as it is answered; an open one as fast as people come."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator

from latentmas_ray.bench.serve.arrivals import poisson_times
from latentmas_ray.bench.serve.reply import NOT_CONNECTED, ChatClient, ChatQuestion, ClientReply, sleep_until

_MAX_PAUSE_SECONDS = 10.0  # of a client that was refused
_GONE_SECONDS = 1.0  # pause of a client that cannot connect: a server that is gone would be asked without end


async def closed_loop(client: ChatClient, questions: Iterable[ChatQuestion], num_clients: int) -> list[ClientReply]:
    """Ask all questions, `num_clients` at the same time. A client that is refused waits as long as the server asks it
    to before its next question, and one that cannot connect a second; the refusal is an error of the question."""
    waiting = iter(questions)
    replies: list[ClientReply] = []

    async def ask_on() -> None:
        for question in waiting:
            reply = await client.ask(question, time.monotonic())
            replies.append(reply)
            pause = _GONE_SECONDS if reply.outcome == NOT_CONNECTED else reply.retry_after
            await asyncio.sleep(min(pause, _MAX_PAUSE_SECONDS))

    await asyncio.gather(*(ask_on() for _ in range(num_clients)))
    return replies


async def open_loop(client: ChatClient, questions: list[ChatQuestion], rate: float, seed: int) -> list[ClientReply]:
    """Ask the questions at the times of a Poisson process, whether earlier ones are answered or not.

    A reply's times count from its arrival, so that a client which falls behind does not hide that.
    """
    begin = time.monotonic()

    async def ask_at(question: ChatQuestion, due: float) -> ClientReply:
        await sleep_until(due)
        return await client.ask(question, due)

    times = poisson_times(rate, len(questions), seed)
    asked = [ask_at(question, begin + offset) for question, offset in zip(questions, times, strict=True)]
    return list(await asyncio.gather(*asked))


def for_so_long(questions: list[ChatQuestion], seconds: float, tell: Callable[[int], None]) -> Iterator[ChatQuestion]:
    """Yield the questions again and again until `seconds` are over; `tell` gets their number at each."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        yield questions[number % len(questions)]
        number += 1
        tell(number)
