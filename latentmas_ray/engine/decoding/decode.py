"""Decodes the texts of a session: one for each question, or several that share its memory and prompt.

Dimensions: B rows, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from latentmas_ray.engine.decoding.stops import StopCheck
from latentmas_ray.engine.run_on import RunOnCheck
from latentmas_ray.engine.turn import CutOff, SampleText, Sampling
from latentmas_ray.models.sampling import greedy, sample, uniform
from latentmas_ray.seeds import sample_seed

if TYPE_CHECKING:
    from latentmas_ray.engine.session import Session

OnText = Callable[[int, Sequence[int]], bool]  # the number of a text, its tokens; whether it is still wanted
Stream = tuple[int, str]  # the seed and the question of one text's random numbers


def decode_texts(
    session: "Session",
    sampling: Sampling,
    agent: str,
    questions: Sequence[str],
    *,
    bounds: Sequence[int] = (),
    samples: int = 1,
    stop: Sequence[str] = (),
    on_text: OnText | None = None,
) -> list[list[int]]:
    """See `Session.decode`."""
    num_questions = len(session.question_ids)
    session.fork(samples)
    streams = [(sample_seed(sampling.seed, one), name) for one in range(samples) for name in session.question_ids]
    outputs: list[list[int]] = [[] for _ in streams]
    session.cut_off = ["max_new_tokens" for _ in streams]
    run_on, stops = RunOnCheck(session.lm.chat, questions), StopCheck(session.lm.chat, stop)
    active = list(range(len(outputs)))  # the text in each row
    for step in range(sampling.max_new_tokens):
        session.counter.now = ("token", step, sampling.max_new_tokens)
        ids = _sample(session, [streams[text] for text in active], sampling, agent, step)
        for row in reversed(range(len(active))):
            text = active[row]
            question = text % num_questions
            has_ended = ids[row] in session.lm.chat.stop_ids
            if not has_ended:
                outputs[text].append(ids[row])
                if (num_kept := run_on.num_kept(question, outputs[text])) is not None:
                    del outputs[text][num_kept:]
                    has_ended = True
                if on_text is not None and not has_ended:
                    has_ended = not on_text(text, outputs[text])
                has_ended = has_ended or stops.has_ended(outputs[text])
            is_full = bool(bounds) and len(outputs[text]) >= bounds[question]
            if has_ended or is_full or session.positions[row] == session.lm.max_positions:
                session.cut_off[text] = "no" if has_ended else "max_new_tokens" if is_full else "positions"
                session.drop_row(row)
                for values in (active, ids):
                    values[row] = values[-1]
                    values.pop()
        if not active or step + 1 == sampling.max_new_tokens:
            break
        session.feed_next(ids)
    return outputs


def texts_by_question(
    written: Sequence[Sequence[int]],
    cut_off: Sequence[CutOff],
    num_questions: int,
    decode: Callable[[Sequence[int]], str],
) -> tuple[tuple[SampleText, ...], ...]:
    """Return the texts of each question from those of `Session.decode` and its `cut_off`. `decode` makes text of token
    ids."""
    texts = [
        SampleText(token_ids=tuple(ids), text=decode(ids), cut_off=why)
        for ids, why in zip(written, cut_off, strict=True)
    ]
    return tuple(tuple(texts[question::num_questions]) for question in range(num_questions))


def tokens_in_cache(known: Sequence[int], written: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the tokens of each question in the cache after `Session.decode`: each of its texts has its `known` tokens,
    memory and prompt, in a row of its own."""
    count = len(known)
    return tuple(sum(known[row] + len(output) for output in written[row::count]) for row in range(count))


def _sample(session: "Session", streams: Sequence[Stream], sampling: Sampling, agent: str, step: int) -> list[int]:
    """The next token of each row, from its own random stream."""
    logits_BV = session.lm.logits(session.last_hidden_BE)
    if sampling.temperature == 0:
        drawn_B = greedy(logits_BV)
    else:
        numbers = [uniform(seed, question, agent, step) for seed, question in streams]
        uniforms_B = torch.tensor(numbers, dtype=torch.float64, device=logits_BV.device)
        drawn_B = sample(logits_BV, uniforms_B, sampling.temperature, sampling.top_p)
    # The logits of ranks may differ in the last bit, but all must use the same token.
    return [int(token) for token in session.lm.ranks.broadcast(drawn_B).tolist()]
