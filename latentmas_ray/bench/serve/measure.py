"""Asks a server under one load after another, and watches its processes meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp

from latentmas_ray.bench.machine import Log, processor
from latentmas_ray.bench.serve.figures import FirstAnswers, InTime, LoadFigures, load_figures
from latentmas_ray.bench.serve.load import closed_loop, for_so_long, open_loop
from latentmas_ray.bench.serve.own_server import OwnServer, server_flags
from latentmas_ray.bench.serve.reply import ChatClient, ChatQuestion, ClientReply
from latentmas_ray.bench.serve.server_processes import MemorySample, MemoryWatch, ServerProcesses, growth_bytes
from latentmas_ray.bench.serve.settings import ServeBenchSettings
from latentmas_ray.env import client_api_key
from latentmas_ray.errors import ConfigError, RunError, first_line
from latentmas_ray.tasks import load_questions
from latentmas_ray.units import format_bytes, format_fine_seconds, format_rate

_SECONDS_A_MINUTE = 60.0
_SAMPLE_SECONDS = 1.0
_SOAK_SAMPLES = 600  # at most
_EVERY = 100  # requests of a soak, from one line of progress to the next

Ask = Callable[[list[ChatQuestion]], Awaitable[list[ClientReply]]]


@dataclass(frozen=True, kw_only=True)
class Soak:
    """A long time under one load, all models in turn."""

    minutes: float
    concurrency: int
    loads: tuple[LoadFigures, ...]  # by model
    growth_bytes: float  # of the server and its actors, from the second quarter of the time to the last


@dataclass(frozen=True, kw_only=True)
class ServeBench:
    """The result of one run."""

    settings: ServeBenchSettings
    machine: str
    loads: tuple[LoadFigures, ...]
    soak: Soak | None
    memory: tuple[MemorySample, ...]  # over the whole run; empty where the server's processes cannot be seen

    @property
    def unanswered(self) -> list[str]:
        """The loads of which no request was answered, each with its model."""
        every = [*self.loads, *(self.soak.loads if self.soak else ())]
        return [f"{one.model}, {one.load}" for one in every if one.num_requests and not one.num_answered]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(settings: ServeBenchSettings, progress: Log) -> ServeBench:
    """Measure a server under all loads of the settings.

    Raises TaskError as `load_questions` does, ConfigError for a server that does not answer at `url` or lacks a model,
    RunError if the server that is started does not become ready.
    """
    texts = [(question.id, question.question) for question in load_questions(settings.task, settings.requests)]
    with ExitStack() as stack:
        url = settings.url
        if url is None:
            progress("the server starts")
            url = stack.enter_context(OwnServer(server_flags(settings))).url
        every = _SAMPLE_SECONDS
        if settings.soak is not None:
            every = max(every, settings.soak * _SECONDS_A_MINUTE / _SOAK_SAMPLES)
        watch = stack.enter_context(MemoryWatch(ServerProcesses.at(url), every))
        loads, soak = asyncio.run(_Measurement(settings, url, texts, watch, progress).measure())
    return ServeBench(
        settings=settings, machine=processor(), loads=tuple(loads), soak=soak, memory=tuple(watch.samples)
    )


class _Measurement:
    """All loads on one server."""

    def __init__(
        self,
        settings: ServeBenchSettings,
        url: str,
        texts: Sequence[tuple[str, str]],
        watch: MemoryWatch,
        progress: Log,
    ) -> None:
        self._settings, self._url, self._texts = settings, url, texts
        self._watch, self._processes, self._progress = watch, watch.processes, progress
        self._first_answers = FirstAnswers()
        self._in_time = InTime(first_token_seconds=settings.first_within, seconds=settings.answer_within)

    async def measure(self) -> tuple[list[LoadFigures], Soak | None]:
        settings = self._settings
        key = client_api_key()
        client = ChatClient(self._url, max_tokens=settings.max_tokens, timeout=settings.timeout, api_key=key)
        loads = []
        async with client:
            models = await self._models(client)
            for model in models:
                # What the first request of a model finds cold is no part of any load.
                await client.ask(ChatQuestion(model=model, key="", text=self._texts[0][1]), time.monotonic())
                for count in dict.fromkeys(settings.concurrency):  # a load that is given twice is measured once
                    loads.append(await self._closed(client, model, count))
                for rate in dict.fromkeys(settings.rates):
                    loads.append(await self._open(client, model, rate))
            return loads, None if settings.soak is None else await self._soak(client, models, settings.soak)

    async def _models(self, client: ChatClient) -> Sequence[str]:
        try:
            listed = await client.models()
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            reason = error.strerror if isinstance(error, aiohttp.ClientConnectorError) else None
            expected = f"no server of this form answers there: {reason or first_line(error)}"
            raise ConfigError("url", self._url, expected) from error
        if not listed:
            raise RunError(f"{self._url}/models lists no model")
        for name in self._settings.models or ():
            if name not in listed:
                raise ConfigError("models", name, f"the server has {', '.join(listed)}")
        return list(dict.fromkeys(self._settings.models or listed))

    def _questions(self, model: str) -> list[ChatQuestion]:
        texts = self._texts
        chosen = (texts[number % len(texts)] for number in range(self._settings.requests))
        return [ChatQuestion(model=model, key=key, text=text) for key, text in chosen]

    async def _closed(self, client: ChatClient, model: str, count: int) -> LoadFigures:
        load = "1 client" if count == 1 else f"{count} clients"

        async def ask(questions: list[ChatQuestion]) -> list[ClientReply]:
            return await closed_loop(client, questions, count)

        return await self._measure_load(model, load, ask, concurrency=count)

    async def _open(self, client: ChatClient, model: str, rate: float) -> LoadFigures:
        async def ask(questions: list[ChatQuestion]) -> list[ClientReply]:
            return await open_loop(client, questions, rate, self._settings.seed)

        return await self._measure_load(model, f"{rate:g}/s", ask, rate=rate)

    async def _measure_load(
        self, model: str, load: str, ask: Ask, *, concurrency: int | None = None, rate: float | None = None
    ) -> LoadFigures:
        cpu_before = self._processes.cpu_seconds() if self._processes is not None else 0.0
        replies = await ask(self._questions(model))
        figures = load_figures(
            replies,
            model=model,
            load=load,
            in_time=self._in_time,
            num_changed=self._first_answers.count_changed(replies),
            concurrency=concurrency,
            rate=rate,
            cpu_seconds=None if self._processes is None else self._processes.cpu_seconds() - cpu_before,
        )
        self._progress(_line(figures))
        return figures

    async def _soak(self, client: ChatClient, models: Sequence[str], minutes: float) -> Soak:
        count = max(self._settings.concurrency, default=1)
        by_model = [self._questions(model) for model in models]
        mixed = [question for turn in zip(*by_model, strict=True) for question in turn]

        def tell(number: int) -> None:
            if number % _EVERY == 0:
                sample = None if self._processes is None else self._processes.sample(0.0)
                more = "" if sample is None else f", {format_bytes(sample.server_bytes + sample.actor_bytes)}"
                self._progress(f"soak: {number} requests{more}")

        first_sample = len(self._watch.samples)
        replies = await closed_loop(client, for_so_long(mixed, minutes * _SECONDS_A_MINUTE, tell), count)
        loads = []
        for model in models:
            own = [reply for reply in replies if reply.question.model == model]
            changed = self._first_answers.count_changed(own)
            loads.append(load_figures(own, model=model, load="soak", in_time=self._in_time, num_changed=changed))
        growth = growth_bytes(self._watch.samples[first_sample:])
        return Soak(minutes=minutes, concurrency=count, loads=tuple(loads), growth_bytes=growth)


def _line(figures: LoadFigures) -> str:
    errors = "".join(f", {count} × {kind}" for kind, count in figures.errors.items())
    return (
        f"{figures.model}, {figures.load}: {figures.num_answered} of {figures.num_requests} answered{errors}; "
        f"first token {format_fine_seconds(figures.first_token.p50)}, whole {format_fine_seconds(figures.whole.p50)}, "
        f"{format_rate(figures.answered_per_second)} a second"
    )
