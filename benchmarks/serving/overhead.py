"""`python -m benchmarks serve-overhead`: what serving costs over the batch driver, in CPU seconds at full load."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving.cpu_parts import CpuParts, cpu_parts
from benchmarks.serving.endless_model import make_endless
from benchmarks.serving.server_and_driver import AskAll, BothWays, Driven, both_ways
from latentmas_ray.bench.machine import processor
from latentmas_ray.bench.serve.load import closed_loop
from latentmas_ray.bench.serve.reply import ChatClient, ChatQuestion, ClientReply
from latentmas_ray.bench.side_process import SideProcess
from latentmas_ray.errors import ConfigError, RunError
from latentmas_ray.tasks import load_questions

_TIMEOUT_SECONDS = 3600.0
WAYS = ("driver", "server")


@dataclass(frozen=True, kw_only=True)
class OverheadSettings:
    """Which questions are asked of which team, greedily, in both ways."""

    model: str
    topology: str
    task: str
    limit: int  # questions
    latent_steps: int
    max_new_tokens: int  # of every answer: the model has no end tokens
    batch_size: int
    decode_batch: int
    dtype: str
    repeats: int  # of both, in turn


@dataclass(frozen=True, kw_only=True)
class OverheadRound:
    """One way, once."""

    way: str  # driver or server
    cpu: CpuParts  # while all places were taken: without the first questions in flight and the last ones
    whole: CpuParts  # from the first question to the last answer
    seconds: float  # on the clock, of the whole; other programs of the machine change it


@dataclass(frozen=True, kw_only=True)
class OverheadOutcome:
    """All rounds of one run."""

    settings: OverheadSettings
    machine: str
    most_questions: int  # at the same time, in both ways
    num_measured: int  # answers of a round that came while all places were taken
    output_tokens: int  # of every answer
    num_equal: int  # answers of the server, over all rounds, that are the driver's first ones
    num_compared: int
    rounds: tuple[OverheadRound, ...]

    def of(self, way: str) -> list[OverheadRound]:
        """The rounds of one way, in order."""
        return [one for one in self.rounds if one.way == way]

    @property
    def ratios(self) -> list[float]:
        """CPU seconds of the server over those of the driver, of each pair of rounds."""
        pairs = zip(self.of("driver"), self.of("server"), strict=True)
        return [server.cpu.total / driver.cpu.total for driver, server in pairs]

    @property
    def ratio(self) -> float:
        """The median of the server's CPU seconds over that of the driver's."""
        server, driver = (median(one.cpu.total for one in self.of(way)) for way in ("server", "driver"))
        return server / driver

    @property
    def whole_ratio(self) -> float:
        """The same with how a round begins and ends."""
        server, driver = (median(one.whole.total for one in self.of(way)) for way in ("server", "driver"))
        return server / driver

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "ratios": self.ratios, "whole_ratio": self.whole_ratio}


class _MarkingClient(ChatClient):
    """A client that notes the CPU seconds of a server after so many answers."""

    def __init__(self, where: BothWays, marks: Sequence[int], max_tokens: int) -> None:
        super().__init__(where.url, max_tokens=max_tokens, timeout=_TIMEOUT_SECONDS)
        self._pid, self._marks, self._num_answers = where.pid, marks, 0
        self.at_marks: list[CpuParts] = []

    async def ask(self, question: ChatQuestion, due: float) -> ClientReply:
        reply = await super().ask(question, due)
        self._num_answers += 1
        if self._num_answers in self._marks:
            self.at_marks.append(cpu_parts(self._pid))
        return reply


def measure_overhead(settings: OverheadSettings, say: Callable[[str], None]) -> OverheadOutcome:
    """Ask the same questions of the same actors in both ways, again and again in turn; once before that to warm up."""
    texts = tuple(one.question for one in load_questions(settings.task, settings.limit))
    with tempfile.TemporaryDirectory() as folder, both_ways(_fields(settings, Path(folder))) as side:
        where: BothWays = side.receive()
        if len(texts) <= 2 * where.most_questions:
            least = (
                f"it must be above {2 * where.most_questions}: {where.most_questions} are in flight at the same time"
            )
            raise ConfigError("limit", settings.limit, f"{least}, and the first and last so many are not measured")
        for way in WAYS:  # caches grow, connections and buffers are made
            _Overhead(settings, side, where, texts[: where.most_questions]).measure(way)
        measured = _Overhead(settings, side, where, texts)
        rounds = []
        for number in range(settings.repeats):
            for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                rounds.append(measured.measure(way))
                one = rounds[-1].cpu
                say(
                    f"{way}: {one.total:.2f} CPU s ({one.process:.2f} process, {one.actors:.2f} actors, "
                    f"{one.ray:.2f} Ray); the whole {rounds[-1].whole.total:.2f} in {rounds[-1].seconds:.1f} s"
                )
        return OverheadOutcome(
            settings=settings,
            machine=processor(),
            most_questions=where.most_questions,
            num_measured=len(texts) - 2 * where.most_questions,
            output_tokens=measured.output_tokens,
            num_equal=measured.num_equal,
            num_compared=measured.num_compared,
            rounds=tuple(rounds),
        )


def _fields(settings: OverheadSettings, folder: Path) -> dict[str, Any]:
    names = ("topology", "latent_steps", "max_new_tokens", "batch_size", "decode_batch", "dtype")
    return {"model": make_endless(settings.model, folder), **{name: getattr(settings, name) for name in names}}


class _Overhead:
    """The rounds of one run."""

    def __init__(self, settings: OverheadSettings, side: SideProcess, where: BothWays, texts: Sequence[str]) -> None:
        self._settings, self._side, self._where, self._texts = settings, side, where, tuple(texts)
        # From when the questions that came first have left to when the last ones come.
        self._marks = (where.most_questions, len(texts) - where.most_questions)
        self._expected: Sequence[str] | None = None
        self.num_equal = self.num_compared = 0
        self.output_tokens = 0

    def measure(self, way: str) -> OverheadRound:
        """Ask all questions one way. Raises RunError for questions without an answer."""
        before, begin = cpu_parts(self._where.pid), time.monotonic()
        if way == "driver":
            driven: Driven = self._side.ask(AskAll(texts=self._texts, marks=self._marks))
        else:
            driven = asyncio.run(self._of_server())
        seconds, whole = time.monotonic() - begin, cpu_parts(self._where.pid).since(before)
        if self._expected is None:
            self._expected = driven.answers
        if way == "server":
            self.num_compared += len(driven.answers)
            self.num_equal += sum(map(str.__eq__, driven.answers, self._expected))
        cpu = driven.at_marks[-1].since(driven.at_marks[0]) if driven.at_marks else CpuParts()
        return OverheadRound(way=way, cpu=cpu, whole=whole, seconds=seconds)

    async def _of_server(self) -> Driven:
        model = self._where.model
        asked = [ChatQuestion(model=model, key=str(number), text=text) for number, text in enumerate(self._texts)]
        client = _MarkingClient(self._where, self._marks, self._settings.max_new_tokens)
        async with client:
            replies = await closed_loop(client, asked, self._where.most_questions)
        if failed := [reply.outcome for reply in replies if not reply.is_answered]:
            raise RunError(f"{len(failed)} of {len(replies)} requests had no answer: {failed[0]}")
        self.output_tokens = min(reply.output_tokens for reply in replies)
        by_key = {reply.question.key: reply.text for reply in replies}
        return Driven(answers=tuple(by_key[one.key] for one in asked), at_marks=tuple(client.at_marks))
