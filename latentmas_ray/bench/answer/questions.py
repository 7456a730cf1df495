"""The questions on which engines are measured, and what an engine reports of them. Plain data: no torch."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from latentmas_ray.bench.answer.settings import AnswerBenchSettings
from latentmas_ray.bench.timings import p99
from latentmas_ray.errors import RunError

_FIRST_ID, _LAST_ID = 3, 258  # plain tokens of every model: the first ids after the special ones


@dataclass(frozen=True, kw_only=True)
class BenchQuestion:
    """A prompt, and how many tokens are written for it."""

    key: str
    prompt_ids: tuple[int, ...]
    num_new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Delay:
    """Seconds until something could be read, over several questions."""

    p50_seconds: float
    p99_seconds: float  # by nearest rank

    @staticmethod
    def of(values: Sequence[float]) -> "Delay":
        """Return the delays of these values; without any they are 0."""
        return Delay(p50_seconds=median(values or [0.0]), p99_seconds=p99(values or [0.0]))


@dataclass(frozen=True, kw_only=True)
class WrittenText:
    """One question's text, with seconds since all questions were handed to the engine."""

    key: str
    token_ids: tuple[int, ...]
    first_token_seconds: float  # when its first token could be read
    seconds: float  # when its last token could be read


@dataclass(frozen=True, kw_only=True)
class MeasuredTexts:
    """All questions, written once by one engine."""

    texts: tuple[WrittenText, ...]
    seconds: float
    cpu_seconds: float  # of the engine's process, all threads
    peak_bytes: int  # of the whole process, or of the GPU's allocator
    extra_bytes: int  # the peak above what was in use before the questions

    @property
    def num_tokens(self) -> int:
        return sum(len(text.token_ids) for text in self.texts)


def draw_questions(settings: AnswerBenchSettings) -> list[BenchQuestion]:
    """Return the questions of these settings: random prompts of one length, and lengths drawn evenly."""
    draw = random.Random(settings.seed)
    return [
        BenchQuestion(
            key=f"q{number}",
            prompt_ids=tuple(draw.randint(_FIRST_ID, _LAST_ID) for _ in range(settings.prompt_tokens)),
            num_new_tokens=draw.randint(settings.min_new_tokens, settings.max_new_tokens),
        )
        for number in range(settings.questions)
    ]


def check_texts(engine: str, questions: list[BenchQuestion], texts: list[WrittenText]) -> None:
    """Raise RunError unless each question has exactly its number of tokens: else engines did different work."""
    lengths = {text.key: len(text.token_ids) for text in texts}
    for question in questions:
        if lengths.get(question.key) != question.num_new_tokens:
            raise RunError(
                f"engine {engine} wrote {lengths.get(question.key, 0)} tokens for question {question.key}, "
                f"it should be {question.num_new_tokens}"
            )
    if len(texts) != len(questions):
        raise RunError(f"engine {engine} wrote {len(texts)} texts for {len(questions)} questions")
