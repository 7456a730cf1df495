"""The engines that write texts, each in a process of its own.

Only the standard library and what is light is imported here: `serve` sets the number of threads, which torch and vLLM
read when they are imported.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Protocol

from latentmas_ray.bench.answer.questions import (
    BenchQuestion,
    MeasuredTexts,
    WrittenText,
    check_texts,
    draw_questions,
)
from latentmas_ray.bench.answer.settings import AnswerBenchSettings
from latentmas_ray.bench.side_process import serve_side
from latentmas_ray.env import read_environment, set_compute_threads
from latentmas_ray.errors import RunError

if TYPE_CHECKING:
    from latentmas_ray.engine.engine import Engine
    from latentmas_ray.writing.text_engine import TextEngine

_AGENT = "answerer"
_LEAST_CACHE_BYTES = 2**30
_ROOM = 1.25  # for blocks that are not full
_WARM_UP_QUESTIONS, _WARM_UP_TOKENS = 2, 4


class AnswerSide(Protocol):
    """An engine with a model that never ends its texts."""

    @property
    def device(self) -> str:
        """The torch device that it computes on."""

    def answer(self, questions: Sequence[BenchQuestion]) -> list[WrittenText]:
        """Write all texts; all questions are there from the start, and begin in their order."""


class StaticSide:
    """Our own engine with batches that begin and end together. Nothing of a batch can be read before its end."""

    def __init__(self, engine: "Engine", batch_size: int) -> None:
        self._engine, self._batch_size = engine, batch_size
        engine.lm.chat.stop_ids = frozenset()

    @property
    def device(self) -> str:
        return str(self._engine.lm.device)

    def answer(self, questions: Sequence[BenchQuestion]) -> list[WrittenText]:
        begin = time.perf_counter()
        texts = []
        for first in range(0, len(questions), self._batch_size):
            batch = questions[first : first + self._batch_size]
            outputs = self._decode(batch)
            seconds = time.perf_counter() - begin
            texts += [
                WrittenText(key=question.key, token_ids=tuple(ids), first_token_seconds=seconds, seconds=seconds)
                for question, ids in zip(batch, outputs, strict=True)
            ]
        return texts

    def _decode(self, batch: Sequence[BenchQuestion]) -> list[list[int]]:
        from latentmas_ray.engine.turn import Sampling

        bounds = [question.num_new_tokens for question in batch]
        num_slots = max(len(question.prompt_ids) for question in batch) + max(bounds)
        session = self._engine.open([question.key for question in batch], num_slots=num_slots)
        session.prefill([question.prompt_ids for question in batch])
        sampling = Sampling(max_new_tokens=max(bounds))
        outputs = session.decode(sampling, _AGENT, bounds=bounds, is_last=True)
        del session  # it holds the cache
        self._engine.trim_cache()
        return outputs


class ContinuousSide:
    """An engine that takes a waiting question as soon as it has room for it."""

    def __init__(self, engine: "TextEngine", device: str) -> None:
        self._engine, self.device = engine, device
        engine.chat.stop_ids = frozenset()

    def answer(self, questions: Sequence[BenchQuestion]) -> list[WrittenText]:
        from latentmas_ray.engine.turn import Sampling
        from latentmas_ray.writing.text_engine import TextRequest

        begin = time.perf_counter()
        waiting = deque(
            TextRequest(
                key=question.key,
                question_id=question.key,
                agent=_AGENT,
                prompt_ids=question.prompt_ids,
                sampling=Sampling(max_new_tokens=question.num_new_tokens),
            )
            for question in questions
        )
        firsts: dict[str, float] = {}
        written: dict[str, list[int]] = {question.key: [] for question in questions}
        texts: list[WrittenText] = []
        while len(texts) < len(questions):
            while waiting and self._engine.can_start(waiting[0]):
                self._engine.start(waiting.popleft())
            for output in self._engine.step():
                seconds = time.perf_counter() - begin
                written[output.key] += output.token_ids
                if output.token_ids:
                    firsts.setdefault(output.key, seconds)
                if output.end == "error":
                    raise RunError(output.error)
                if output.end is not None:
                    ids, first = tuple(written[output.key]), firsts.get(output.key, seconds)
                    text = WrittenText(key=output.key, token_ids=ids, first_token_seconds=first, seconds=seconds)
                    texts.append(text)
        return texts


def serve(name: str, settings: AnswerBenchSettings, model: str, connection: Connection) -> None:
    """Load the engine `name`, send on which device it computes, then measure at every message. `model` is a name or a
    folder; a message says nothing."""

    def start() -> tuple[str, Callable[[None], MeasuredTexts]]:
        set_compute_threads(num_threads(settings))
        side = SIDES[name](settings, model)
        questions = draw_questions(settings)
        short = [
            BenchQuestion(key=one.key, prompt_ids=one.prompt_ids, num_new_tokens=_WARM_UP_TOKENS)
            for one in questions[:_WARM_UP_QUESTIONS]
        ]
        side.answer(short)  # selects kernels and starts threads
        return side.device, lambda _: _measure(name, side, questions)

    serve_side(name, connection, start)


def num_threads(settings: AnswerBenchSettings) -> int:
    """Return the threads of each engine on a CPU. Raises ConfigError for a value of the environment."""
    return settings.threads or read_environment().torch_threads or len(os.sched_getaffinity(0))


def _measure(name: str, side: AnswerSide, questions: list[BenchQuestion]) -> MeasuredTexts:
    import torch

    from latentmas_ray.bench.used_memory import reset_peak, used_bytes

    device = torch.device(side.device)
    reset_peak(device)
    resting = used_bytes(device, peak=False)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    texts = side.answer(questions)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    check_texts(name, questions, texts)
    peak = used_bytes(device, peak=True)
    return MeasuredTexts(
        texts=tuple(texts),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        peak_bytes=peak,
        extra_bytes=max(0, peak - resting),
    )


def _static(settings: AnswerBenchSettings, model: str) -> AnswerSide:
    from latentmas_ray.engine.load import load_runner

    runner = load_runner(model, dtype=settings.dtype, device=settings.device, thoughts="identity")
    return StaticSide(runner.engine, settings.batch_size)


def _continuous(settings: AnswerBenchSettings, model: str) -> AnswerSide:
    from latentmas_ray.models import load_model
    from latentmas_ray.writing.continuous import ContinuousEngine

    lm = load_model(model, dtype=settings.dtype, device=settings.device)
    return ContinuousSide(ContinuousEngine(lm, max_running=settings.batch_size), str(lm.device))


def _vllm(settings: AnswerBenchSettings, model: str) -> AnswerSide:
    from latentmas_ray.models import choose_device
    from latentmas_ray.models.presets import kv_shape
    from latentmas_ray.vllm.load import load_text_engine

    # A fixed cache, since by itself vLLM takes most of a GPU, where the other engines need their memory.
    num_tokens = settings.batch_size * (settings.prompt_tokens + settings.max_new_tokens)
    needed = int(num_tokens * kv_shape(model, dtype=settings.dtype).bytes_per_token * _ROOM)
    engine = load_text_engine(
        model,
        dtype=settings.dtype,
        max_running=settings.batch_size,
        kv_cache_bytes=max(_LEAST_CACHE_BYTES, needed),
        enable_prefix_caching=False,  # every round has the same prompts, which it would only read in the first
    )
    return ContinuousSide(engine, str(choose_device(settings.device)))


SIDES: Mapping[str, Callable[[AnswerBenchSettings, str], AnswerSide]] = {
    "static": _static,
    "continuous": _continuous,
    "vllm": _vllm,
}
