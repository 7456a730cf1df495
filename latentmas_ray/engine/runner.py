"""Executes a `TurnRequest` on an engine and returns its `TurnResult`. Local runtime and Ray actors both call this."""

import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import add
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.engine.decoding.decode import OnText, texts_by_question, tokens_in_cache
from latentmas_ray.engine.diagnostics.ablation import clone_without
from latentmas_ray.engine.diagnostics.convergence import ThoughtConvergence
from latentmas_ray.engine.diagnostics.guard import GuardDecision, decide
from latentmas_ray.engine.diagnostics.logit_lens import LogitLens
from latentmas_ray.engine.diagnostics.tracer import TurnTracer
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.eviction import Eviction
from latentmas_ray.engine.overlap import send_prompt_chunk
from latentmas_ray.engine.positions import check_positions
from latentmas_ray.engine.recompute import InputTranslator, TranslatedSegments, recompute
from latentmas_ray.engine.run_on import asked
from latentmas_ray.engine.segment_io import Incoming, InMemorySegments, Outgoing
from latentmas_ray.engine.session import Session
from latentmas_ray.engine.timing.phase_timer import PhaseTimer
from latentmas_ray.engine.timing.progress import StepCounter, TurnProgress
from latentmas_ray.engine.turn import NewTokens, OnTokens, Phases, TurnRequest, TurnResult
from latentmas_ray.errors import LatentMASError, ModelError
from latentmas_ray.memory import KVCacheSpec, MergedLayout, Segment, SegmentChunk, merge_layout


class TurnRunner:
    """Executes turns on one engine."""

    def __init__(self, engine: Engine, translators: Mapping[str, InputTranslator] | None = None) -> None:
        """`translators` is by the name of another model whose memory this one reads."""
        self.engine = engine
        self._translators = dict(translators or {})
        self._current: tuple[TurnRequest, float, StepCounter] | None = None  # the running turn and its start

    @property
    def progress(self) -> TurnProgress | None:
        """How far the running turn is; None between turns. Any thread may ask."""
        if (current := self._current) is None:
            return None
        work, begin, counter = current
        step, num_done, num_total = counter.now
        return TurnProgress(
            agent=work.agent,
            question_ids=work.question_ids,
            step=step,
            num_done=num_done,
            num_total=num_total,
            seconds=time.monotonic() - begin,
        )

    @property
    def spec(self) -> KVCacheSpec:
        """The KV cache spec of its model or shard."""
        return self.engine.lm.spec

    @property
    def device(self) -> str:
        """The device for the log: `cpu`, or the name of the GPU."""
        return self.engine.lm.device_name

    def run(
        self,
        work: TurnRequest,
        memory: Mapping[str, Segment] | Incoming,
        *,
        outgoing: Outgoing | None = None,
        on_tokens: OnTokens | None = None,
    ) -> tuple[SegmentChunk | None, TurnResult]:
        """Execute one turn: absorb `memory`, prefill, think and emit, or decode.

        The turn's segment is sent to `outgoing`, the prompt's chunk as soon as it is final if `overlaps`. Without
        `outgoing` it is returned as one chunk, which may stay in the engine's cache until its bytes are read. Returns
        that chunk (or None) and the result. `on_tokens` gets each token of the questions in `TurnRequest.streamed`; of
        a model without a chat template none, as its texts may be cut off again. Raises QuestionsTooLongError before the
        first step for questions that do not fit the model's positions, SegmentError, ModelError, and the errors of
        `memory` and `outgoing`.

        With tensor parallelism every rank runs the same turn on its own shards of the memory. An error on one rank is
        raised on all ranks, which can then run another turn; if a rank has died it is a ShardError.
        """
        if self.spec.has_states and (part := work.needs_parts):
            expected = "its layers keep states, which sum up all tokens before them: they cannot be used with"
            raise ModelError("model", self.engine.lm.name, f"{expected} {part}")
        ranks = self.engine.lm.ranks
        self._current = work, time.monotonic(), StepCounter()
        try:
            return self._run(work, memory, outgoing, on_tokens)
        except BaseException as error:
            # LatentMASErrors are raised on all ranks alike: steps that may fail on one rank run in `all_or_none`.
            if not ranks.is_collective_error(error) and not isinstance(error, LatentMASError):
                ranks.abort()  # otherwise the other ranks would wait
            raise
        finally:
            self._current = None

    def _run(
        self,
        work: TurnRequest,
        memory: Mapping[str, Segment] | Incoming,
        outgoing: Outgoing | None,
        on_tokens: OnTokens | None,
    ) -> tuple[SegmentChunk | None, TurnResult]:
        lm = self.engine.lm
        timer = PhaseTimer(lm.device)
        with timer.phase("prefill"):
            prompts = [lm.chat.encode(prompt.messages, prompt.template, prompt.suffix) for prompt in work.prompts]
        session, merged = self._absorb(work, memory, prompts, timer)
        eviction = Eviction(session, work, prompts)
        with timer.phase("prefill"):
            eviction.prefill()
        tracer = TurnTracer(self._lens, work, merged, prompts)
        decision, chunk, found = GuardDecision(), None, dict[str, Any]()
        if work.thinks == "latent":
            seen: list[Tensor] | None = [] if tracer.is_on or work.guard != "off" else None
            after_prompt_BE = session.last_hidden_BE
            with eviction.watch_thoughts():
                sent_bytes = self._think(session, work, timer, outgoing, seen)
            hidden_BNE = _stack(after_prompt_BE, seen or [])
            if work.guard != "off":
                decision = self._guard(session, work, timer, after_prompt_BE, hidden_BNE)
            chunk, sizes = self._emit(session, work, timer, outgoing, sent_bytes)
            found = {**sizes, **_about_thoughts(session, work)}  # after the segment was sent
            with timer.phase("trace"):
                tracer.capture(session, hidden_BNE)
            outputs = self._decode_fallback(session, merged, work, prompts, decision.written, timer)
            memory_tokens = tuple(session.cache.lengths)
        else:
            with timer.phase("trace"):  # before decoding moves rows
                tracer.capture(session)
            written, found = self._write(session, work, timer, on_tokens)
            outputs = dict(enumerate(written[: len(prompts)]))
            memory_tokens = tokens_in_cache(list(map(add, merged.lengths, map(len, prompts))), written)
        cut_off = tuple(session.cut_off[: len(prompts)])
        del session, eviction  # they hold the cache
        self.engine.trim_cache()
        texts = {work.question_ids[row]: lm.chat.decode(output) for row, output in outputs.items()}
        with timer.phase("trace"):
            traces, embeddings = tracer.inspect(outputs, texts), tracer.embeddings()
        trace_seconds = timer.seconds.pop("trace")
        return chunk, TurnResult(
            agent=work.agent,
            prompt_tokens=tuple(map(len, prompts)),
            **found,
            output_token_ids=tuple(tuple(outputs.get(row, ())) for row in range(len(prompts))) if outputs else (),
            texts=tuple(texts.values()) if work.thinks == "text" else (),
            cut_off=cut_off,
            phases=Phases(**timer.seconds),
            spans=tuple(timer.spans),
            memory_tokens=memory_tokens,
            traces=traces,
            embeddings=embeddings,
            trace_seconds=trace_seconds if tracer.is_on or work.guard != "off" else 0.0,
            alarms=decision.alarms,
            fallbacks={} if work.thinks == "text" else texts,
        )

    @cached_property
    def _lens(self) -> LogitLens:
        return LogitLens(self.engine.lm, self.engine.rule)

    def _absorb(
        self,
        work: TurnRequest,
        memory: Mapping[str, Segment] | Incoming,
        prompts: Sequence[Sequence[int]],
        timer: PhaseTimer,
    ) -> tuple[Session, MergedLayout]:
        """Return a session that has absorbed the memory, and the layout of the memory."""
        lm = self.engine.lm
        incoming = InMemorySegments(memory) if isinstance(memory, Mapping) else memory
        with timer.phase("absorb"):
            if work.translated:
                incoming = self.translate(work, incoming)
            with lm.ranks.all_or_none():
                segments, chunks = incoming.segments(), incoming.chunks()
            check_positions(
                work,
                starts=merge_layout(work.reads, segments, len(work.question_ids)).next_positions,
                prompt_lengths=list(map(len, prompts)),
                num_closing=len(self._end_tokens(work)),
                limit=lm.max_positions,
                model=lm.name,
                bound=lm.positions_bound,
            )
            if work.recomputed:
                segments = self.recompute(work, incoming)
                chunks = InMemorySegments(segments).chunks()
            merged = merge_layout(work.reads, segments, len(work.question_ids))
            num_coming = work.sampling.max_new_tokens
            if work.thinks == "latent":
                num_coming = work.latent_steps + len(self._end_tokens(work))
            num_known = max(merged.lengths, default=0) + max(map(len, prompts))
            # A row holds at most as many tokens as the model has positions, whatever `max_new_tokens` is.
            num_slots = max(num_known, min(num_known + num_coming, lm.max_positions or sys.maxsize))
            with lm.ranks.all_or_none():
                session = self.engine.open(work.question_ids, num_slots=num_slots, reads=merged, agent=work.agent)
                if self._current is not None:
                    self._current = work, self._current[1], session.counter
                session.absorb(merged, chunks)
        return session, merged

    def recompute(self, work: TurnRequest, memory: Incoming) -> dict[str, Segment]:
        """Return all segments that a turn reads, with the KV of those that arrive as recompute inputs computed. Raises
        like `engine.recompute`. Memory of agents with another model must be translated: see `translate`."""
        return recompute(self.engine, work.reads, memory, work.recomputed, work.question_ids)

    def translate(self, work: TurnRequest, memory: Incoming) -> TranslatedSegments:
        """Wait for memory of agents with another model; return all memory, with theirs as inputs of this one. Raises
        like `TranslatedSegments`."""
        lm = self.engine.lm
        by_agent = {agent: self._translators[model] for agent, model in work.translated.items()}
        return TranslatedSegments(memory, work.reads, by_agent, lm.spec, lm.ranks)

    def _end_tokens(self, work: TurnRequest) -> list[int]:
        """The tokens that are fed after the thoughts."""
        return self.engine.lm.chat.turn_terminator if work.close_turn else []

    def measure_prefill(self, num_tokens: int) -> float:
        """Measure a prefill of one question of `num_tokens`, in tokens per second, after a warm-up."""
        lm = self.engine.lm
        num_tokens = min(num_tokens, lm.max_positions or num_tokens)
        timer = PhaseTimer(lm.device)
        for phase in ("warm-up", "prefill"):
            session = self.engine.open(["probe"], num_slots=num_tokens)
            with timer.phase(phase):
                session.prefill([[0] * num_tokens])
        return num_tokens / timer.seconds["prefill"]

    def _think(
        self,
        session: Session,
        work: TurnRequest,
        timer: PhaseTimer,
        outgoing: Outgoing | None,
        seen: list[Tensor] | None,
    ) -> tuple[int, ...]:
        """Compute a turn's thoughts; before them send the prompt's chunk, if the two overlap. Appends to `seen` the
        hidden states of the thoughts. Returns the bytes per question of the recompute inputs that were sent."""
        closing = self._end_tokens(work)
        sent_bytes = (0,) * len(work.prompts)
        if outgoing is not None and outgoing.overlaps and work.can_overlap:
            sent_bytes = send_prompt_chunk(session, work, timer, outgoing, num_end_tokens=len(closing))
        with timer.phase("think"):
            session.think(work.latent_steps, seen, stop_at=work.stop_at, fills=work.fills_steps)
            if closing:
                session.feed([closing] * len(work.prompts))
        return sent_bytes

    def _guard(
        self, session: Session, work: TurnRequest, timer: PhaseTimer, after_prompt_BE: Tensor, hidden_BNE: Tensor
    ) -> GuardDecision:
        """Decide about the thoughts of a turn, before it emits them."""
        with timer.phase("trace"):
            decision = decide(self._lens, work, after_prompt_BE, hidden_BNE, session.num_thoughts)
            session.drop_thoughts(decision.without_thoughts)
            session.withdraw(decision.withdrawn)
        return decision

    def _emit(
        self,
        session: Session,
        work: TurnRequest,
        timer: PhaseTimer,
        outgoing: Outgoing | None,
        sent_bytes: tuple[int, ...],
    ) -> tuple[SegmentChunk | None, dict[str, tuple[int, ...]]]:
        """Emit the tokens that were not sent yet. Returns the chunk unless it is sent, and those fields of the
        result that have the segment's bytes per question."""
        make_chunk = session.emit_chunk if work.transfer_mode == "kv" else session.emit_recompute_inputs
        with timer.phase("emit"), session.lm.ranks.all_or_none():
            final_at = time.time()
            if outgoing is not None:
                chunk = make_chunk(work.hands_over, reserve=outgoing.reserve)
                outgoing.publish(final_at, chunk)
            else:
                chunk = (
                    SegmentChunk.whole(session.emit(work.hands_over))
                    if work.transfer_mode == "kv"
                    else make_chunk(work.hands_over)
                )
        if work.transfer_mode == "kv":
            segment_bytes = chunk.meta.bytes_per_question
        else:
            segment_bytes = tuple(map(add, sent_bytes, chunk.recompute_inputs.bytes_per_question))
        sizes = {"segment_bytes": segment_bytes, "evicted_bytes": chunk.meta.evicted_bytes if work.keep else ()}
        return None if outgoing is not None else chunk, sizes

    def _write(
        self, session: Session, work: TurnRequest, timer: PhaseTimer, on_tokens: OnTokens | None
    ) -> tuple[list[list[int]], dict[str, Any]]:
        """Decode the texts of a turn: the token ids of each, and those fields of the result that have all of them."""
        with timer.phase("decode"):
            written = session.decode(
                work.sampling,
                work.agent,
                asked(work.prompts),
                is_last=work.is_last and not work.others_read,
                samples=work.samples,
                stop=work.stop,
                on_text=None if on_tokens is None else _listener(work, on_tokens, session.lm.chat.has_template),
            )
        if work.samples == 1:
            return written, {}
        decode = self.engine.lm.chat.decode
        return written, {"samples": texts_by_question(written, session.cut_off, len(work.prompts), decode)}

    def _decode_fallback(
        self,
        session: Session,
        reads: MergedLayout,
        work: TurnRequest,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        timer: PhaseTimer,
    ) -> dict[int, list[int]]:
        """Decode text for the questions of `rows`, without the agent's thoughts: token ids by row. Sets the session's
        `cut_off`."""
        if not rows:
            return {}
        with timer.phase("decode"):
            fed = [prompts[row] for row in rows]
            longest = max(reads.lengths[row] + len(prompts[row]) for row in rows)
            num_new = min(work.sampling.max_new_tokens, max(0, (self.engine.lm.max_positions or sys.maxsize) - longest))
            other = clone_without(session, reads, rows, num_new=max(map(len, fed)) + num_new)
            other.prefill(fed)
            written = other.decode(work.sampling, work.agent, asked([work.prompts[row] for row in rows]))
            cut_off = dict(zip(rows, other.cut_off, strict=True))
            session.cut_off = [cut_off.get(row, "no") for row in range(len(prompts))]
            return dict(zip(rows, written, strict=True))


def _listener(work: TurnRequest, on_tokens: OnTokens, has_template: bool) -> OnText:
    """Return what passes each token of a streamed question on; without a template none, but asks whether it is
    wanted."""
    num_questions = len(work.question_ids)

    def on_text(text: int, output: Sequence[int]) -> bool:
        name, first = work.question_ids[text % num_questions], len(output) - 1
        if name not in work.streamed:
            return True
        ids = tuple(output[first:]) if has_template else ()
        return on_tokens(name, NewTokens(token_ids=ids, first=first, sample=text // num_questions))

    return on_text


def _about_thoughts(session: Session, work: TurnRequest) -> dict[str, Any]:
    """The fields of a result about thoughts: how many steps computed them, and how they converged."""
    allowed = None if work.stop_at is None else work.latent_steps
    rows = zip(session.thought_cosines(), session.num_thoughts, session.num_steps, strict=True)
    convergence = tuple(
        ThoughtConvergence.of(cosines, thoughts=thoughts, steps=steps, allowed_steps=allowed)
        for cosines, thoughts, steps in rows
    )
    return {"latent_steps": max(one.steps for one in convergence), "convergence": convergence}


def _stack(after_prompt_BE: Tensor, seen: Sequence[Tensor]) -> Tensor:
    """The hidden states of all thoughts, [B, N, E]."""
    return torch.stack(list(seen), dim=1) if seen else after_prompt_BE[:, None][:, :0]
