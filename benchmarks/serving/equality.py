"""`python -m benchmarks serve-equality`: answers of a server under load against those of `latentmas ask`."""

import asyncio
import json
from dataclasses import asdict, dataclass

from latentmas_ray import LatentMAS
from latentmas_ray.bench.serve.load import closed_loop
from latentmas_ray.bench.serve.own_server import OwnServer
from latentmas_ray.bench.serve.reply import ChatClient, ChatQuestion
from latentmas_ray.tasks import load_questions

_TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class EqualitySettings:
    """Which questions are asked of which team, greedily."""

    model: str
    topology: str
    method: str  # latent, text or single
    task: str
    limit: int
    latent_steps: int
    max_new_tokens: int
    dtype: str
    runtime: str  # of the server
    concurrency: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EqualAnswers:
    """One load: how many answers there were, and how many of them are those of `ask`."""

    concurrency: int
    num_questions: int
    num_answered: int
    num_equal: int
    different: tuple[str, ...]  # ids


def measure_equality(settings: EqualitySettings, *, as_json: bool) -> None:
    """Ask each question alone in this process, one after another; then ask a server all of them under each load, with
    streams. Print the figures."""
    questions = load_questions(settings.task, settings.limit)
    expected = _asked_alone(settings, [question.question for question in questions])
    name = f"latentmas/{settings.topology}" + ("" if settings.method == "latent" else f"/{settings.method}")
    asked = [ChatQuestion(model=name, key=one.id, text=one.question) for one in questions]
    figures = []
    with OwnServer(_flags(settings)) as server:
        for count in settings.concurrency:
            answers = asyncio.run(_answers(server.url, asked, count, settings.max_new_tokens))
            different = tuple(one.key for one in asked if answers.get(one.key) != expected[one.text])
            figures.append(
                EqualAnswers(
                    concurrency=count,
                    num_questions=len(asked),
                    num_answered=len(answers),
                    num_equal=len(asked) - len(different),
                    different=different,
                )
            )
            if not as_json:
                print(f"{name}, {count} at a time: {figures[-1].num_equal} of {len(asked)} are those of latentmas ask")
    if as_json:
        print(json.dumps({"settings": asdict(settings), "loads": [asdict(one) for one in figures]}, indent=2))


def _asked_alone(settings: EqualitySettings, texts: list[str]) -> dict[str, str]:
    with LatentMAS(
        settings.model,
        topology=settings.topology,
        method=settings.method,  # type: ignore[arg-type]
        latent_steps=settings.latent_steps,
        max_new_tokens=settings.max_new_tokens,
        dtype=settings.dtype,  # type: ignore[arg-type]
        temperature=0,
        runtime="local",
    ) as mas:
        return {text: mas.ask(text).answer for text in texts}


def _flags(settings: EqualitySettings) -> list[str]:
    values = {
        "--model": settings.model,
        "--topology": settings.topology,
        "--latent-steps": settings.latent_steps,
        "--max-new-tokens": settings.max_new_tokens,
        "--dtype": settings.dtype,
        "--runtime": settings.runtime,
    }
    return [word for flag, value in values.items() for word in (flag, str(value))]


async def _answers(url: str, asked: list[ChatQuestion], clients: int, max_tokens: int) -> dict[str, str]:
    """Return the answers by question; those that failed are not there."""
    async with ChatClient(url, max_tokens=max_tokens, timeout=_TIMEOUT_SECONDS) as client:
        replies = await closed_loop(client, asked, clients)
    return {reply.question.key: reply.text for reply in replies if reply.is_answered}
