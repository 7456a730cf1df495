"""One agent's turn over one batch of questions, inside one engine.

Dimensions: B rows (questions), N new tokens of all rows, T tokens, E hidden size, L layers, C 2, H KV heads,
D head dim, N in `_recompute_inputs` latent thoughts.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, repeat
from operator import add

import torch
from torch import Tensor

from latentmas_ray.engine.convergence import StopRule, Sweeps, complete_rows
from latentmas_ray.engine.decoding.decode import OnText, decode_texts
from latentmas_ray.engine.inputs import PromptChoice, TurnInputs, prefill_windows
from latentmas_ray.engine.lazy_segment import LazyKV
from latentmas_ray.engine.positions import check_next
from latentmas_ray.engine.timing.progress import StepCounter
from latentmas_ray.engine.turn import CutOff, Sampling
from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import LATENT, MergedLayout, RecomputeInputs, Segment, SegmentChunk, SegmentMeta
from latentmas_ray.memory.buffers import empty_bytes
from latentmas_ray.models import LanguageModel
from latentmas_ray.models.attention import AttentionMass
from latentmas_ray.models.cache import BatchCache, Reserve
from latentmas_ray.models.thoughts import ThoughtKey, ThoughtRule
from latentmas_ray.topology.agent import HandsOver

PREFILL_CHUNK = 1024  # tokens per forward, of all rows together: bounds the activations of long prompts


class Session:
    """A turn in progress, created by `Engine.open`; valid until its engine opens the next session.

    Call order: `absorb` (at most once), `prefill`, then `think`, `feed` and `emit` (or `emit_chunk` after each of
    them), or `decode`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        cache: BatchCache,
        rule: ThoughtRule,
        question_ids: Sequence[str],
        *,
        agent: str = "",
        holds_memory: bool = False,
    ) -> None:
        self.lm, self.cache, self.rule, self.agent = lm, cache, rule, agent
        self.question_ids = list(question_ids)
        self.positions = [0] * len(question_ids)  # of the next input, per row
        self.last_hidden_BE = torch.empty(0)
        self._holds_memory = holds_memory  # the cache already holds the memory to absorb
        self._memory_lengths = [0] * len(question_ids)
        self._inputs = TurnInputs(lm.spec, self.positions)
        self.counter = StepCounter()
        self.cut_off: list[CutOff] = []  # of each text, after `decode`
        self.num_steps = [0] * len(question_ids)  # forwards that computed each question's thoughts

    @torch.inference_mode()
    def absorb(self, merged: MergedLayout, chunks: Iterable[tuple[str, SegmentChunk]] | None = None) -> None:
        """Write the predecessors' memory into the cache, every key at its position in the merged sequence.

        `chunks` are the placed segments' chunks, each with its agent, in any order; each is absorbed when it arrives.
        Without `chunks` the segments of `merged` are read; the result is the same. Raises IncompatibleMemoryError for
        memory of another model, SegmentError if a chunk is missing.
        """
        for placed in merged.segments:
            self.lm.spec.check_same(placed.segment.spec)
            placed.segment.layout().require_even()
        if not self._holds_memory:
            self._write(merged, merged.chunks() if chunks is None else chunks)
        self._memory_lengths = list(self.cache.lengths)
        self.positions = list(merged.next_positions)
        self._inputs = TurnInputs(self.lm.spec, self.positions)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        """Read one prompt (token ids, at least one) per question. Raises ContextLengthError if one is too long."""
        self.feed(prompts)
        self._inputs.end_prompt()

    @torch.inference_mode()
    def feed(self, token_ids: Sequence[Sequence[int]]) -> None:
        """Feed known tokens to every row, ragged, at most `PREFILL_CHUNK` per forward."""
        ids_T = torch.tensor(list(chain(*token_ids)), dtype=torch.int64)
        self._feed(self.lm.embed(ids_T).split([len(ids) for ids in token_ids]))
        self._inputs.add_tokens(token_ids)

    @torch.inference_mode()
    def feed_recompute_inputs(self, recompute_inputs: RecomputeInputs) -> None:
        """Feed the inputs of another turn, tokens and latent thoughts, to every row: recomputes its memory.

        Finish with `emit_as`. Raises SegmentError for a token that the model does not have.
        """
        num_embeddings = self.lm.num_embeddings
        if (
            recompute_inputs.token_ids_T.numel()
            and (largest := int(recompute_inputs.token_ids_T.max())) >= num_embeddings
        ):
            raise SegmentError(f"token {largest} was fed to the agent, but model {self.lm.name} has {num_embeddings}")
        is_thought_T = recompute_inputs.token_ids_T == LATENT
        embeds_TE = self.lm.embed(recompute_inputs.token_ids_T.masked_fill(is_thought_T, 0))
        embeds_TE[is_thought_T.to(embeds_TE.device)] = recompute_inputs.latents_NE.to(embeds_TE.device)
        self._feed(embeds_TE.split(list(recompute_inputs.lengths)))

    @torch.inference_mode()
    def follow(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Feed input embeddings [T, E] to every row, ragged; returns the last hidden states after each, [T, E]."""
        hidden: list[list[Tensor]] = [[row[:0]] for row in rows]
        self._feed(rows, hidden)
        return [torch.cat(parts) for parts in hidden]

    def _feed(self, rows: Sequence[Tensor], hidden: Sequence[list[Tensor]] | None = None) -> None:
        """Feed input embeddings [T, E] to every row, ragged; appends to `hidden` each row's last hidden states."""
        nothing_E = torch.zeros(self.lm.spec.hidden_size, dtype=self.lm.spec.torch_dtype, device=self.lm.device)
        last_B = list(self.last_hidden_BE) or [nothing_E] * len(rows)
        num_done, num_total = 0, sum(map(len, rows))
        for windows in prefill_windows([len(row) for row in rows], PREFILL_CHUNK):
            counts = [stop - first for first, stop in windows]
            embeds_NE = torch.cat([row[first:stop] for row, (first, stop) in zip(rows, windows, strict=True)])
            self.counter.now = ("prompt", num_done, num_total)
            hidden_NE = self._forward(embeds_NE, counts)
            num_done += sum(counts)
            for row, end in enumerate(accumulate(counts)):
                if counts[row]:
                    last_B[row] = hidden_NE[end - 1]
                if hidden is not None:
                    hidden[row].append(hidden_NE[end - counts[row] : end])
        self.last_hidden_BE = torch.stack(last_B)

    @torch.inference_mode()
    def preview(self, prompts: Sequence[Sequence[int]], mass: AttentionMass) -> None:
        """Feed other prompts, ragged, for the attention that they pay: adds it to `mass`, and forgets them. Of a prompt
        that has more tokens than there are positions only the last are fed. Raises CacheError."""
        limit = self.lm.max_positions
        fed = [
            ids if limit is None else ids[max(0, len(ids) - (limit - position)) :] if position < limit else []
            for ids, position in zip(prompts, self.positions, strict=True)
        ]
        lengths, positions, last_hidden_BE = list(self.cache.lengths), self.positions, self.last_hidden_BE
        with self.lm.ranks.all_or_none():
            self.cache.reserve(max(map(add, self.cache.lengths, map(len, fed))))
        ids_T = torch.tensor(list(chain(*fed)), dtype=torch.int64)
        with self.cache.watched(mass):
            self._feed(self.lm.embed(ids_T).split([len(ids) for ids in fed]))
        self.cache.extend(lengths)
        self.positions, self.last_hidden_BE = positions, last_hidden_BE

    def keep(self, choice: PromptChoice) -> None:
        """Hand over only these positions of the prompt, and all that follows it. Before the first chunk."""
        self._inputs.keep(choice)

    @torch.inference_mode()
    def think(
        self, num_steps: int, seen: list[Tensor] | None = None, *, stop_at: float | None = None, fills: bool = False
    ) -> None:
        """Run `num_steps` latent steps: the rule makes the next input embedding of the last hidden state, which is
        appended to `seen` ([B, E]). With `stop_at` a row leaves the step when its thoughts have converged (`StopRule`):
        it keeps the first `num_thoughts` of those that it would have without, and its later entries in `seen` mean
        nothing. If it `fills`, the others are then computed together (`engine.convergence.Sweeps`).
        """
        dtype = self.lm.spec.torch_dtype
        rows = list(range(len(self.question_ids)))
        stop = None if stop_at is None else StopRule(stop_at, len(rows), self.lm.ranks)
        for step in range(num_steps):
            self.counter.now = ("latent step", step, num_steps)
            keys = [ThoughtKey(self.question_ids[row], self.agent, step) for row in rows]
            thought_NE = self.rule(self._of_rows(rows), keys).to(dtype)
            if stop is not None:
                thought_NE, rows = stop.keep(thought_NE), stop.rows
                if not rows:
                    break
            if seen is not None:
                seen.append(self.last_hidden_BE)
            self._feed_thoughts(thought_NE, rows)
            self._inputs.add_thoughts(thought_NE, rows)
        self.num_steps = list(self.num_thoughts)
        if fills and (left := [num_steps - count for count in self.num_thoughts]) and any(left):
            self._think_together(left, num_steps, seen)

    @property
    def num_thoughts(self) -> list[int]:
        """The number of thoughts of each row."""
        return self._inputs.num_thoughts

    @torch.inference_mode()
    def thought_cosines(self) -> list[list[float]]:
        """By row, the cosine of each thought from the second on with the one before."""
        return self._inputs.thought_cosines()

    def _think_together(self, left: Sequence[int], num_steps: int, seen: list[Tensor] | None) -> None:
        """Think `left[b]` more thoughts of each row, up to `num_steps`, in a few forwards over all of them."""
        before_BE, begin = self.last_hidden_BE, (self.cache.lengths, self.positions)
        keys = list(map(ThoughtKey, self.question_ids, repeat(self.agent), self.num_thoughts))
        sweeps = Sweeps(self.rule, before_BE, keys, left, self.lm.spec.torch_dtype, self.lm.ranks)
        while True:
            hidden = self.follow(sweeps.thoughts)
            for row, count in enumerate(left):
                self.num_steps[row] += bool(count)
            if not sweeps.continue_after(hidden):
                break
            self.cache.extend(begin[0])
            self.last_hidden_BE, self.positions = before_BE, begin[1]
        self._inputs.complete_thoughts(sweeps.thoughts, num_steps)
        if seen is not None:
            before = [torch.cat([before_BE[row : row + 1], part])[: left[row]] for row, part in enumerate(hidden)]
            complete_rows(seen, before, num_steps)

    def _of_rows(self, rows: Sequence[int]) -> Tensor:
        """The last hidden states of some rows, [N, E]."""
        return self.last_hidden_BE if len(rows) == len(self.question_ids) else self.last_hidden_BE[rows]

    def _feed_thoughts(self, thought_NE: Tensor, rows: Sequence[int]) -> None:
        """Feed one thought to each of `rows`; the others stay as they are, and cost nothing."""
        if len(rows) == len(self.question_ids):
            self.last_hidden_BE = self._forward(thought_NE, [1] * len(rows))
            return
        counts = [0] * len(self.question_ids)
        for row in rows:
            counts[row] = 1
        last_hidden_BE = self.last_hidden_BE.clone()  # the old one may be in `seen`
        last_hidden_BE[rows] = self._forward(thought_NE, counts)
        self.last_hidden_BE = last_hidden_BE

    def drop_thoughts(self, rows: Sequence[int]) -> None:
        """Hand over only the prompts of these rows."""
        self._inputs.drop_thoughts(rows)

    def withdraw(self, rows: Sequence[int]) -> None:
        """Hand over nothing for these rows; a reader continues at the position where this turn began."""
        self._inputs.withdraw(rows)

    @torch.inference_mode()
    def decode(
        self,
        sampling: Sampling,
        agent: str,
        questions: Sequence[str] = (),
        *,
        bounds: Sequence[int] = (),
        is_last: bool = False,
        samples: int = 1,
        stop: Sequence[str] = (),
        on_text: OnText | None = None,
    ) -> list[list[int]]:
        """Sample tokens until each question's end token, the bound, or the last position that the model has; returns
        token ids without the end token, and sets `cut_off`.

        A model without a chat template also ends where it asks itself a new question; `questions` are what it was
        asked. A finished question leaves the batch, which speeds up the others. Segments that are still in the cache
        are copied out before that, unless they will not be read any more (`is_last`). `bounds` are the tokens that each
        question may have, at least 1, where they differ. With `samples` each question has so many texts, which share
        what was computed so far: text s of question q of Q is number s · Q + q. A text
        also ends with the token that completes one of `stop`. `on_text` is called for each token that does not end its
        text; the text ends if it returns False. Ends the session. Raises CacheError.
        """
        if is_last:
            self.cache.drop_views()
        return decode_texts(
            self, sampling, agent, questions, bounds=bounds, samples=samples, stop=stop, on_text=on_text
        )

    def fork(self, times: int) -> None:
        """Give each row `times` − 1 copies, which continue alike: copy c of row b of B is row c · B + b. Questions keep
        their order. Raises CacheError."""
        if times > 1:
            with self.lm.ranks.all_or_none():
                self.cache.fork(times)
            self.positions = self.positions * times
            self.last_hidden_BE = self.last_hidden_BE.repeat(times, 1)

    def feed_next(self, ids: Sequence[int]) -> None:
        """Feed one token to each row that is left."""
        self.last_hidden_BE = self._forward(self.lm.embed(torch.tensor(ids)), [1] * len(ids))

    def drop_row(self, row: int) -> None:
        """Replace a finished row by the last one."""
        self.cache.drop_row(row)
        self.positions[row] = self.positions[-1]
        self.positions.pop()

    @torch.inference_mode()
    def emit(self, hands_over: HandsOver = "all") -> Segment:
        """Return this turn's segment: of the whole turn, of its prompt, or of what follows the prompt."""
        return self.emit_as(self._inputs.segment_meta(hands_over), self._inputs.recompute_inputs())

    @torch.inference_mode()
    def emit_as(self, meta: SegmentMeta, recompute_inputs: RecomputeInputs) -> Segment:
        """Return the segment with these meta data after `feed_recompute_inputs`."""
        begins = [memory + offset for memory, offset in zip(self._memory_lengths, meta.offsets, strict=True)]
        kept = meta.kept_tokens([0] * len(begins), meta.lengths)
        return Segment(meta, LazyKV(self.cache, begins, meta.layout(), kept), recompute_inputs)

    def emit_recompute_inputs(
        self,
        hands_over: HandsOver = "all",
        num_coming: int = 0,
        reserve: Reserve = empty_bytes,
        *,
        is_open: bool = False,
    ) -> SegmentChunk:
        """Like `emit_chunk`, but without KV: the reader computes it from the recompute inputs."""
        meta = self._inputs.segment_meta(hands_over, num_coming, is_open=is_open)
        return SegmentChunk.without_kv(meta, self._inputs.pop_span(meta).recompute_inputs)

    @torch.inference_mode()
    def emit_chunk(
        self,
        hands_over: HandsOver = "all",
        num_coming: int = 0,
        reserve: Reserve = empty_bytes,
        *,
        is_open: bool = False,
    ) -> SegmentChunk:
        """Return what this turn has computed since its last chunk, copied to memory of `reserve`.

        `num_coming` inputs of every question are still to come, or with `is_open` at most so many; 0 for the last
        chunk.
        """
        meta = self._inputs.segment_meta(hands_over, num_coming, is_open=is_open)
        part = self._inputs.pop_span(meta)
        slots = [sum(parts) for parts in zip(self._memory_lengths, meta.offsets, part.begins, strict=True)]
        layout = meta.layout(part.begins, part.lengths)
        layout.require_even()
        kept = meta.kept_tokens(part.begins, part.lengths)
        kv = self.cache.copy_out(slots, layout.lengths, reserve, kept=kept, has_states=layout.has_states)
        return SegmentChunk(meta, part.begins, part.lengths, kv, part.recompute_inputs)

    def _write(self, merged: MergedLayout, chunks: Iterable[tuple[str, SegmentChunk]]) -> None:
        """Write chunks into the slots of their segments, which follow one another in the order of `merged`."""
        ends = [0] * len(self.question_ids)
        begins, missing = {}, {}
        for placed in merged.segments:
            begins[placed.agent] = list(ends)
            ends = [end + length for end, length in zip(ends, placed.segment.kv_lengths, strict=True)]
            missing[placed.agent] = sum(placed.segment.lengths)
        shifts = {placed.agent: placed.shifts for placed in merged.segments}
        for agent, chunk in chunks:
            for row, shift in enumerate(shifts[agent]):
                slot = begins[agent][row] + chunk.num_kept_before(row)
                positions = chunk.positions_of(row, shift)
                for head, kv in chunk.head_views(row):
                    states = agent == merged.last
                    self.cache.write(row, slot, kv, shift, first_head=head, has_states=states, positions=positions)
            missing[agent] -= sum(chunk.lengths)
        if any(missing.values()):
            raise SegmentError(f"memory is missing or duplicate: {missing} tokens")
        self.cache.extend(ends)

    def _forward(self, embeds_NE: Tensor, counts: Sequence[int]) -> Tensor:
        """One forward over `counts[b]` inputs of each row, one row after another. Returns last hidden states [N, E]."""
        lm = self.lm
        check_next(self.positions, counts, limit=lm.max_positions, model=lm.name, bound=lm.positions_bound)
        positions = [
            position
            for first, count in zip(self.positions, counts, strict=True)
            for position in range(first, first + count)
        ]
        self.cache.begin_step(counts, self.positions)
        hidden_NE = self.lm.hidden_states(embeds_NE, torch.tensor(positions, device=self.lm.device), self.cache)
        self.cache.end_step()
        self.positions = [position + count for position, count in zip(self.positions, counts, strict=True)]
        return hidden_NE.to(self.lm.device)
