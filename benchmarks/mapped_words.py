"""What the map of thoughts keeps: words that are sent as embeddings, from one model to another.

Thoughts say little that can be checked, words do: the notes of a question are given to the reader as the writer's input
embeddings, mapped, in place of its own tokens. What it answers then is what the map carries at best.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.env import read_environment
from latentmas_ray.memory import LATENT, RecomputeInputs
from latentmas_ray.models import LanguageModel, load_model
from latentmas_ray.models.load import load_tokenizer
from latentmas_ray.models.realign import mean_norm
from latentmas_ray.models.translation.embeddings import WriterEmbeddings, load_embeddings
from latentmas_ray.models.translation.thought_map import MapSpace, solve_map
from latentmas_ray.models.translation.vocabulary import SharedVocabulary, shared_vocabulary
from latentmas_ray.stats import accuracy_interval
from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.grading.grade import grade
from latentmas_ray.tasks.question import Question

Notes = Literal["own tokens", "mapped words", "another question's mapped words"]
_FITTED = 0.8  # of the shared tokens, where the others are held out
_MAX_NEW_TOKENS = 160


@dataclass(frozen=True)
class MappedWords:
    """What one map does. `found` is the share of shared tokens whose mapped embedding is nearest to its own word of the
    reader, `found_held_out` that of tokens from which the map was not made."""

    writer: str
    reader: str
    space: MapSpace
    num_shared: int
    found: float
    found_held_out: float
    answers: dict[Notes, tuple[bool, ...]]


def measure_words(writer: str, reader: str, num_questions: int, batch_size: int) -> Iterator[MappedWords]:
    """Measure the maps from both spaces of the writer to the reader."""
    lm, embeddings = load_model(reader), load_embeddings(writer)
    tokenizer = load_tokenizer(writer)
    shared = shared_vocabulary(tokenizer, lm.chat.tokenizer, (writer, reader))
    reader_VE = lm.input_embeddings().float()
    engine = Engine(lm, cache_dir=read_environment().cache_dir)
    questions = load_questions("notes", num_questions)
    texts = [" ".join(question.record["notes"]) for question in questions]
    words = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    own = _answers(engine, questions, texts, None, batch_size)
    for space in ("input", "output"):
        matrix_AB = solve_map(embeddings, reader_VE, shared, space)
        norm = mean_norm(reader_VE)
        mapped = [norm * normalize(embeddings.input_VE[ids].float() @ matrix_AB, dim=-1) for ids in words]
        others = [*mapped[1:], mapped[0]]
        yield MappedWords(
            writer,
            reader,
            space,
            len(shared.writer_ids),
            *_found(embeddings, reader_VE, shared, space),
            answers={
                "own tokens": own,
                "mapped words": _answers(engine, questions, texts, mapped, batch_size),
                "another question's mapped words": _answers(engine, questions, texts, others, batch_size),
            },
        )


def _found(
    embeddings: WriterEmbeddings, reader_VE: Tensor, shared: SharedVocabulary, space: MapSpace
) -> tuple[float, float]:
    words_SA, words_SB = shared.rows(embeddings.input_VE.float(), reader_VE)
    order = torch.randperm(len(words_SA), generator=torch.Generator().manual_seed(0))
    fitted, held_out = order.split([round(_FITTED * len(order)), len(order) - round(_FITTED * len(order))])
    part = replace(
        shared,
        writer_ids=tuple(shared.writer_ids[i] for i in fitted),
        reader_ids=tuple(shared.reader_ids[i] for i in fitted),
    )

    def share(fitted_on: SharedVocabulary, rows: Tensor) -> float:
        mapped = words_SA[rows] @ solve_map(embeddings, reader_VE, fitted_on, space)
        nearest = (normalize(mapped, dim=-1) @ normalize(words_SB, dim=-1).T).argmax(-1)
        return float((nearest == rows).float().mean())

    return share(shared, torch.arange(len(words_SA))), share(part, held_out)


@torch.inference_mode()
def _answers(
    engine: Engine, questions: Sequence[Question], texts: Sequence[str], notes: Sequence[Tensor] | None, batch_size: int
) -> tuple[bool, ...]:
    """Whether each answer is right, with these embeddings [T, E] in place of the tokens of the notes."""
    right: list[bool] = []
    for first in range(0, len(questions), batch_size):
        batch = range(first, min(first + batch_size, len(questions)))
        inputs = _inputs(engine.lm, [questions[i] for i in batch], texts[first:], notes and notes[first:])
        names = [questions[i].id for i in batch]
        session = engine.open(names, num_slots=max(inputs.lengths) + _MAX_NEW_TOKENS)
        session.feed_recompute_inputs(inputs)
        answers = session.decode(Sampling(max_new_tokens=_MAX_NEW_TOKENS), "reader", is_last=True)
        right += [
            bool(grade(questions[i], engine.lm.chat.decode(ids)).correct) for i, ids in zip(batch, answers, strict=True)
        ]
    return tuple(right)


def _inputs(
    lm: LanguageModel, questions: Sequence[Question], texts: Sequence[str], notes: Sequence[Tensor] | None
) -> RecomputeInputs:
    rows: list[list[int]] = []
    for index, question in enumerate(questions):
        prompt = f"Notes: {texts[index]}\nQuestion: {question.question}\nAnswer."
        ids = lm.chat.encode([{"role": "user", "content": prompt}], {}, "")
        if notes is not None:
            before, after = lm.chat.show(ids).split(texts[index])
            ids = [*lm.chat.encode_text(before), *[LATENT] * len(notes[index]), *lm.chat.encode_text(after)]
        rows.append(ids)
    kept = [] if notes is None else notes[: len(rows)]
    empty = torch.empty(0, lm.spec.hidden_size)
    return RecomputeInputs(
        torch.tensor(list(chain(*rows))), torch.cat([empty, *kept]).to(lm.spec.torch_dtype), tuple(map(len, rows))
    )


def words_table(found: Sequence[MappedWords]) -> str:
    """The figures as a table of Markdown."""
    kinds: tuple[Notes, ...] = ("own tokens", "mapped words", "another question's mapped words")
    head = ("writer", "reader", "from", "shared tokens", "found", "found, held out", *kinds)
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for one in found:
        shown = [f"{100 * one.found:.1f}", f"{100 * one.found_held_out:.1f}"]
        for kind in kinds:
            scores = [float(is_right) for is_right in one.answers[kind]]
            low, high = accuracy_interval(scores)
            shown.append(f"{100 * sum(scores) / len(scores):.1f} ({100 * low:.1f}–{100 * high:.1f})")
        lines.append("| " + " | ".join([one.writer, one.reader, one.space, str(one.num_shared), *shown]) + " |")
    return "\n".join(lines)
