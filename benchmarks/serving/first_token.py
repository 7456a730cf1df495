"""`python -m benchmarks serve-first-token`: the first token of a stream, against that of `ask` on the same actors."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.serving.server_and_driver import AskFirst, BothWays, both_ways
from latentmas_ray.bench.machine import processor
from latentmas_ray.bench.serve.reply import ChatClient, ChatQuestion
from latentmas_ray.bench.side_process import SideProcess
from latentmas_ray.errors import RunError
from latentmas_ray.tasks import load_questions
from latentmas_ray.units import format_fine_seconds

_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class FirstTokenSettings:
    """Which questions are asked of which team, greedily and one at a time."""

    model: str
    topology: str
    task: str
    limit: int  # questions, each asked both ways
    warm_up: int  # further ones before
    latent_steps: int
    max_new_tokens: int
    dtype: str


@dataclass(frozen=True, kw_only=True)
class FirstTokenPair:
    """Seconds until the first token of one question, both ways."""

    ask: float
    stream: float


@dataclass(frozen=True, kw_only=True)
class FirstTokenOutcome:
    """All pairs of one run."""

    settings: FirstTokenSettings
    machine: str
    pairs: tuple[FirstTokenPair, ...]

    @property
    def ask(self) -> float:
        """The median of `ask`."""
        return median(one.ask for one in self.pairs)

    @property
    def stream(self) -> float:
        """The median of streams."""
        return median(one.stream for one in self.pairs)

    @property
    def ratio(self) -> float:
        """The median of streams over that of `ask`."""
        return self.stream / self.ask

    @property
    def ratios(self) -> list[float]:
        """Of each pair, ascending."""
        return sorted(one.stream / one.ask for one in self.pairs)

    @property
    def difference(self) -> float:
        """The median of what a stream takes longer for the same question."""
        return median(one.stream - one.ask for one in self.pairs)

    def to_json(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("ask", "stream", "ratio", "difference")}
        return {**asdict(self), **named}


def measure_first_token(settings: FirstTokenSettings, say: Callable[[str], None]) -> FirstTokenOutcome:
    """Ask each question both ways, one after the other; every second question the other way first."""
    asked = load_questions(settings.task, settings.limit + settings.warm_up)
    texts = [asked[number % len(asked)].question for number in range(settings.limit + settings.warm_up)]
    names = ("model", "topology", "latent_steps", "max_new_tokens", "dtype")
    with both_ways({name: getattr(settings, name) for name in names}) as side:
        where: BothWays = side.receive()
        pairs = asyncio.run(_pairs(settings, side, where, texts))[settings.warm_up :]
    outcome = FirstTokenOutcome(settings=settings, machine=processor(), pairs=tuple(pairs))
    say(f"{len(pairs)} questions: {format_fine_seconds(outcome.ask)} and {format_fine_seconds(outcome.stream)}")
    return outcome


async def _pairs(
    settings: FirstTokenSettings, side: SideProcess, where: BothWays, texts: list[str]
) -> list[FirstTokenPair]:
    model = where.model
    async with ChatClient(where.url, max_tokens=settings.max_new_tokens, timeout=_TIMEOUT_SECONDS) as client:

        async def of_stream(text: str) -> float:
            reply = await client.ask(ChatQuestion(model=model, key="", text=text), time.monotonic())
            if not reply.is_answered or reply.first_token is None:
                raise RunError(f"the stream of {text!r} has no token: {reply.outcome}")
            return reply.first_token_seconds

        async def of_ask(text: str) -> float:
            return float(await asyncio.to_thread(side.ask, AskFirst(text=text)))

        pairs = []
        for number, text in enumerate(texts):
            if number % 2 == 0:
                ask = await of_ask(text)
                stream = await of_stream(text)
            else:
                stream = await of_stream(text)
                ask = await of_ask(text)
            pairs.append(FirstTokenPair(ask=ask, stream=stream))
        return pairs
