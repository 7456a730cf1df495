"""Many callers of one `LatentMAS`: threads, and tasks of an event loop."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from latentmas_ray import Agent, LatentMAS, Topology
from latentmas_ray.env import read_environment
from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.question import Question

NUM_CALLERS = 8
# Where the slow tests run, as in continuous integration, all of these.
ALL_ARE_ASKED = "slow" in read_environment().require
QUESTIONS = load_questions("notes", 200 if ALL_ARE_ASKED else 4 * NUM_CALLERS)
# Two agents, which is enough for one to be answered with another's memory.
PAIR = Topology(
    name="pair",
    agents=[
        Agent(name="reader", prompt="{{ record.notes }}"),
        Agent(name="answerer", reads=["reader"], thinks="text", prompt="{{ question }}"),
    ],
)
FAST: dict[str, Any] = {
    "topology": PAIR,
    "latent_steps": 1,
    "max_new_tokens": 3,
    "dtype": "float32",
    "device": "cpu",
    "seed": 7,
}
Tokens = dict[str, tuple[int, ...]]  # of each question's answer, by its id


def ask_in_turn(mas: LatentMAS, questions: Sequence[Question] = QUESTIONS) -> Tokens:
    """One after another, as one thread does."""
    return {question.id: mas.ask(question).answer_token_ids for question in questions}


def ask_in_threads(mas: LatentMAS, questions: Sequence[Question] = QUESTIONS) -> Tokens:
    """From several threads at one time, each with questions of its own."""
    with ThreadPoolExecutor(NUM_CALLERS) as pool:
        parts = [questions[first::NUM_CALLERS] for first in range(NUM_CALLERS)]
        answered = list(pool.map(lambda part: ask_in_turn(mas, part), parts))
    assert [set(tokens) for tokens in answered] == [{question.id for question in part} for part in parts]
    return {name: tokens for part in answered for name, tokens in part.items()}


def ask_in_tasks(mas: LatentMAS, questions: Sequence[Question] = QUESTIONS) -> Tokens:
    """From several tasks of one event loop, each with questions of its own."""

    async def ask(part: Sequence[Question]) -> Tokens:
        return {question.id: (await mas.aask(question)).answer_token_ids for question in part}

    async def ask_all() -> Tokens:
        parts = [questions[first::NUM_CALLERS] for first in range(NUM_CALLERS)]
        answered = await asyncio.gather(*map(ask, parts))
        assert [set(tokens) for tokens in answered] == [{question.id for question in part} for part in parts]
        return {name: tokens for part in answered for name, tokens in part.items()}

    return asyncio.run(ask_all())
