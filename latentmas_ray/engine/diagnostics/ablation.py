"""Ablation: a second session on the memory of a first one, without one segment.

The first session is not changed.

Dimensions: B rows (questions), T tokens of one row, E hidden size, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentmas_ray.engine.session import Session
from latentmas_ray.memory import MergedLayout
from latentmas_ray.models.cache import BatchCache

_PLACES_CHUNK = 64  # places at a time: bounds their logits


@torch.inference_mode()
def clone_without(
    session: Session, reads: MergedLayout, rows: Sequence[int], *, num_new: int, without: str | None = None
) -> Session:
    """Return a session of some questions, with its own cache, that has absorbed the same memory except the segment of
    agent `without`. All tokens, and the next prompt, keep their positions.

    `reads` is what `session` absorbed, and must still be in its rows. `num_new` is the number of tokens per row after
    the memory. Raises CacheError.
    """
    lm, num_rows = session.lm, len(session.cache.lengths)
    begins, ends = [], [0] * num_rows
    for placed in reads.segments:
        begins.append(list(ends))
        ends = [end + length for end, length in zip(ends, placed.segment.kv_lengths, strict=True)]
    kept = [(at, placed) for at, placed in zip(begins, reads.segments, strict=True) if placed.agent != without]
    lengths = [sum(placed.segment.kv_lengths[row] for _, placed in kept) for row in rows]
    with lm.ranks.all_or_none():
        cache = BatchCache(lm.spec, lm.layer_devices, len(rows), max(lengths, default=0) + num_new)
        ends = [0] * len(rows)
        cache.open(len(rows))
        for at, placed in kept:
            wanted = [placed.segment.kv_lengths[row] if row in rows else 0 for row in range(num_rows)]
            kv = session.cache.copy_out(at, wanted)  # keys are already rotated
            for index, row in enumerate(rows):
                positions = session.cache.positions_of(row, at[row], wanted[row])
                for _, part in kv.head_views(row):
                    cache.write(index, ends[index], part, 0, positions=positions)
                ends[index] += wanted[row]
        cache.extend(ends)
    other = Session(lm, cache, session.rule, [session.question_ids[row] for row in rows], agent=session.agent)
    other.positions = [reads.next_positions[row] for row in rows]
    return other


class Ablation:
    """Measures the effect of each segment of a memory on some of the questions that read it: the agent's prompt and the
    inputs that followed it, thoughts or text, are fed again with all memory and without each segment."""

    def __init__(
        self, session: Session, reads: MergedLayout, rows: Sequence[int], prompts: Sequence[Sequence[int]], num_new: int
    ) -> None:
        """The session must still hold its memory; it is not used after this. At most `num_new`
        inputs follow a prompt."""
        self._lm, self._rows, self._reads = session.lm, rows, reads
        self._prompts = [prompts[row] for row in rows]
        num_new += max(map(len, self._prompts), default=0)
        sources = [placed.agent for placed in reads.segments] if rows else []
        # The session with all memory is also a clone, so that only the segment differs.
        self._sessions = {
            source: clone_without(session, reads, rows, num_new=num_new, without=source)
            for source in (None, *sources)
            if sources
        }

    @torch.inference_mode()
    def effects(self, followed: Sequence[Tensor]) -> list[dict[str, float]]:
        """Return, by question and agent, the effect of the agent's segment on the next token's distribution.

        The effect is Σ p log(p/q) in nats, with p with all memory and q without the segment; the maximum over the
        places after the prompt and after each of the inputs `followed` [T, E]. Segments that are empty for a question
        and places with non-finite distributions are skipped.
        """
        found: list[dict[str, float]] = [{} for _ in self._rows]
        full = self._follow(None, followed) if self._sessions else []
        for placed in self._reads.segments if self._sessions else ():
            for index, (row, with_TE, without_TE) in enumerate(
                zip(self._rows, full, self._follow(placed.agent, followed), strict=True)
            ):
                moved_T = self._moved(with_TE, without_TE)
                moved_T = moved_T[moved_T.isfinite()]
                if placed.segment.lengths[row] and len(moved_T):
                    found[index][placed.agent] = max(0.0, float(moved_T.max()))
        return found

    def _follow(self, without: str | None, followed: Sequence[Tensor]) -> list[Tensor]:
        """The last hidden states after the prompt and after each input, [T, E] of each question."""
        session = self._sessions.pop(without)
        session.prefill(self._prompts)
        last_BE = session.last_hidden_BE
        after = session.follow(followed)
        return [torch.cat([last_E[None], row_TE]) for last_E, row_TE in zip(last_BE, after, strict=True)]

    def _moved(self, with_TE: Tensor, without_TE: Tensor) -> Tensor:
        """Σ p log(p/q) of the next token at each place, [T]."""
        parts = []
        for hidden in zip(with_TE.split(_PLACES_CHUNK), without_TE.split(_PLACES_CHUNK), strict=True):
            p_TV, q_TV = (torch.log_softmax(self._lm.logits(hidden_TE), dim=-1) for hidden_TE in hidden)
            parts.append((p_TV.exp() * (p_TV - q_TV)).sum(dim=-1))
        return torch.cat(parts)
