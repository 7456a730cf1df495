"""An outcome of `latentmas bench answer` without a measurement."""

from latentmas_ray.bench.answer.engines import text_speed_figures
from latentmas_ray.bench.answer.measure import AnswerBench
from latentmas_ray.bench.answer.methods import MethodFigures, TimeParts
from latentmas_ray.bench.answer.questions import Delay, MeasuredTexts, WrittenText
from latentmas_ray.bench.answer.settings import AnswerBenchSettings

TOKENS = {"q0": (5, 6, 7), "q1": (8,)}


def measured(
    seconds: float, cpu_seconds: float, *, peak_bytes: int = 10**9, tokens: dict[str, tuple[int, ...]] = TOKENS
) -> MeasuredTexts:
    """Two questions: the first ends after all seconds, the second after half of them."""
    texts = tuple(
        WrittenText(
            key=key,
            token_ids=ids,
            first_token_seconds=seconds / 4,
            seconds=seconds if key == "q0" else seconds / 2,
        )
        for key, ids in tokens.items()
    )
    return MeasuredTexts(
        texts=texts, seconds=seconds, cpu_seconds=cpu_seconds, peak_bytes=peak_bytes, extra_bytes=peak_bytes // 10
    )


def answer_outcome() -> AnswerBench:
    """Three engines, and three methods on two tasks."""
    rounds = [
        {
            "static": measured(4.0 * drift, 3.0 * drift),
            "continuous": measured(2.0 * drift, 2.0 * drift),
            "vllm": measured(1.0 * drift, 0.75 * drift, tokens={**TOKENS, "q1": (9,)}),
        }
        for drift in (1.0, 2.0, 1.5)
    ]
    settings = AnswerBenchSettings(questions=2, concurrency=(1, 8))
    seconds = {"single": 1.0, "text": 3.0, "latent": 2.0}
    return AnswerBench(
        settings=settings,
        machine="a machine of which the name is long enough to need a second line, 2 cores, 1 thread",
        engines=tuple(text_speed_figures(name, "cpu", rounds) for name in ("static", "continuous", "vllm")),
        methods=tuple(
            MethodFigures(
                method=method,
                task=task,
                concurrency=concurrency,
                engine="vllm",
                num_questions=64,
                num_failed=0,
                accuracy=0.953125,
                accuracy_interval=(0.9, 0.98),
                prompt_tokens=400.0,
                latent_steps=120.0 if method == "latent" else 0.0,
                output_tokens=21.75,
                seconds=64 * taken / concurrency,
                questions_per_second=concurrency / taken,
                seconds_per_question=taken / concurrency,
                delay=Delay(p50_seconds=1.5 * taken, p99_seconds=2.5 * taken),
                parts=TimeParts(
                    thinking=1.2 if method == "latent" else 0.0,
                    hand_over=0.000123 if method == "latent" else 0.0,
                    prefill=0.05,
                    decode=0.9,
                ),
            )
            for task in settings.tasks
            for concurrency in settings.concurrency
            for method, taken in seconds.items()
        ),
    )
