"""A second session on memory that a first one has absorbed: what would happen with less of it?

The first session goes on as if nothing had been.

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
    session: Session, reads: MergedLayout, rows: Sequence[int], *, room: int, without: str | None = None
) -> Session:
    """A session of some of the questions, in a cache of its own, that has absorbed the same memory but for the segment
    of the agent `without`. Every token stands at the position where it stood; a prompt goes on where it would.

    `reads` is what `session` absorbed, and all of it must still lie in its rows. `room` is how many tokens each row may
    get behind its memory. Raises CacheError.
    """
    lm, num_rows = session.lm, len(session.cache.lengths)
    begins, ends = [], [0] * num_rows
    for placed in reads.segments:
        begins.append(list(ends))
        ends = [end + length for end, length in zip(ends, placed.segment.lengths, strict=True)]
    kept = [(at, placed) for at, placed in zip(begins, reads.segments, strict=True) if placed.agent != without]
    lengths = [sum(placed.segment.lengths[row] for _, placed in kept) for row in rows]
    with lm.ranks.all_or_none():
        cache = BatchCache(lm.spec, lm.layer_devices, len(rows), max(lengths, default=0) + room)
        ends = [0] * len(rows)
        cache.open(len(rows))
        for at, placed in kept:
            wanted = [placed.segment.lengths[row] if row in rows else 0 for row in range(num_rows)]
            parts = session.cache.copy_out(at, wanted).split(wanted, dim=3)  # their keys are rotated already
            for index, row in enumerate(rows):
                cache.write(index, ends[index], parts[row], 0, lm.spec.rope)
                ends[index] += wanted[row]
        cache.extend(ends)
    other = Session(lm, cache, session.realign, [session.question_ids[row] for row in rows])
    other.positions = [reads.next_positions[row] for row in rows]
    return other


class Ablation:
    """What each segment of a memory does to some of the questions that read it: an agent's own prompt and what followed
    it, its thoughts or its text, are fed again with all memory and without each segment."""

    def __init__(
        self, session: Session, reads: MergedLayout, rows: Sequence[int], prompts: Sequence[Sequence[int]], room: int
    ) -> None:
        """The session must still hold its memory in its rows; afterwards it is not needed any more. At most `room`
        inputs will have followed the prompts."""
        self._lm, self._rows, self._reads = session.lm, rows, reads
        self._prompts = [prompts[row] for row in rows]
        room += max(map(len, self._prompts), default=0)
        sources = [placed.agent for placed in reads.segments] if rows else []
        # The one with all memory is made in the same way, so that nothing but the segment differs.
        self._sessions = {
            source: clone_without(session, reads, rows, room=room, without=source)
            for source in (None, *sources)
            if sources
        }

    @torch.inference_mode()
    def effects(self, followed: Sequence[Tensor]) -> list[dict[str, float]]:
        """By question and agent: how far the distribution of the next token moves when that agent's segment is left
        out, Σ p log(p/q) in nats, p with all memory and q without; where it moves most, after the prompt and after each
        of the inputs `followed` [T, E]. A segment that is empty for a question is left out, and so is a place where a
        distribution is not finite.
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
