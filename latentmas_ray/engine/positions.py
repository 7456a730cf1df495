"""Whether the questions of a turn fit the model's positions: checked before the first step, when all that counts is
known."""

from collections.abc import Iterator, Sequence

from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import ContextLengthError, QuestionsTooLongError


def check_positions(
    work: TurnRequest,
    *,
    starts: Sequence[int],
    prompt_lengths: Sequence[int],
    num_closing: int,
    limit: int | None,
    model: str,
    bound: str = "",
) -> None:
    """Raise QuestionsTooLongError if a question needs more than `limit` positions.

    `starts` are the positions at which the prompts begin, after the memory that is read; `num_closing` tokens follow
    the thoughts. A text agent needs room for one new token. `bound` says what has only `limit` positions, and what to
    do about it, where that is not the model.
    """
    if limit is None:
        return
    is_text = work.thinks == "text"
    coming = 1 if is_text else work.latent_steps + num_closing
    reasons = {}
    for question, start, prompt in zip(work.question_ids, starts, prompt_lengths, strict=True):
        if (needed := start + prompt + coming) > limit:
            parts = [
                *([f"memory up to position {start}"] if start else []),
                _count(prompt, "prompt token"),
                *(["1 new token"] if is_text else _thinking(work.latent_steps, num_closing)),
            ]
            remedy = _remedy(start, prompt, limit, has_steps=bool(work.latent_steps))
            why = bound or f"model {model} has {limit}: {remedy}"
            reasons[question] = f"{' + '.join(parts)} need {needed} positions, {why}"
    if reasons:
        raise QuestionsTooLongError(work.agent, reasons)


def check_next(positions: Sequence[int], counts: Sequence[int], *, limit: int | None, model: str, bound: str) -> None:
    """Raise ContextLengthError if `counts[b]` inputs from `positions[b]` on need more than `limit` positions."""
    needed = max(position + count for position, count in zip(positions, counts, strict=True))
    if limit is not None and needed > limit:
        remedy = "use fewer latent steps, a shorter prompt or a smaller max_new_tokens"
        why = bound or f"model {model} has {limit}: {remedy}"
        raise ContextLengthError(f"memory, prompt and thoughts need {needed} positions, {why}")


def _thinking(latent_steps: int, num_closing: int) -> Iterator[str]:
    if latent_steps:
        yield _count(latent_steps, "latent step")
    if num_closing:
        yield _count(num_closing, "closing token")


def _remedy(start: int, prompt: int, limit: int, *, has_steps: bool) -> str:
    remedies = ["a shorter prompt", "a model with more positions"]
    if start:
        remedies.insert(0, "fewer agents before it")
    if (start or has_steps) and prompt < limit:
        remedies.insert(0, "fewer latent steps")
    return f"use {', '.join(remedies[:-1])} or {remedies[-1]}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
