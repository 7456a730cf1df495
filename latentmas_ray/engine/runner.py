"""Carries out a `TurnWork` on an engine and reports what it did. Local runtime and Ray actors both call this."""

import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import add
from pathlib import Path

import torch
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.incoming import Incoming, Present
from latentmas_ray.engine.lens import Lens
from latentmas_ray.engine.outgoing import Outgoing
from latentmas_ray.engine.replay import replay
from latentmas_ray.engine.session import Session
from latentmas_ray.engine.stopwatch import Stopwatch
from latentmas_ray.engine.tracing import TurnTracer
from latentmas_ray.engine.turn import Phases, TurnReport, TurnWork
from latentmas_ray.env import read_environment
from latentmas_ray.errors import LatentMASError
from latentmas_ray.memory import KVCacheSpec, Piece, Placement, Segment, place
from latentmas_ray.models import load_model
from latentmas_ray.models.ranks import ALONE, Ranks


class TurnRunner:
    """An engine that understands `TurnWork`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def spec(self) -> KVCacheSpec:
        """What its memory looks like."""
        return self.engine.lm.spec

    @property
    def device(self) -> str:
        """Where it computes, for the log: `cpu`, or the name of the GPU."""
        device = self.engine.lm.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def run(
        self,
        work: TurnWork,
        memory: Mapping[str, Segment] | Incoming,
        *,
        outgoing: Outgoing | None = None,
    ) -> tuple[Piece | None, TurnReport]:
        """One turn: absorb `memory`, prefill, think and emit, or decode.

        The turn's own segment leaves by `outgoing`, the prompt's part as soon as it is final if that is wanted. Without
        `outgoing` it is returned as one piece, and may stay in the engine's cache until somebody needs its bytes.
        Returns that piece (or None) and the report. Raises SegmentError, ContextLengthError, ModelError, and what
        `memory` and `outgoing` raise.

        Of a divided model every rank runs the same turn, each with its own shards of the memory. What fails on one
        rank is raised on all of them, and they can go on with another turn; where one is gone that is a ShardError.
        """
        ranks = self.engine.lm.ranks
        try:
            return self._run(work, memory, outgoing)
        except BaseException as error:
            # An error of ours is raised by all ranks alike: what only one may raise, it raises while they are agreeing.
            if not ranks.has_agreed(error) and not isinstance(error, LatentMASError):
                ranks.leave()  # the others wait for this one
            raise

    def _run(
        self, work: TurnWork, memory: Mapping[str, Segment] | Incoming, outgoing: Outgoing | None
    ) -> tuple[Piece | None, TurnReport]:
        lm = self.engine.lm
        watch = Stopwatch(lm.device)
        with watch.phase("prefill"):
            prompts = [lm.chat.encode(prompt.messages, prompt.template, prompt.suffix) for prompt in work.prompts]
        session, placement = self._absorb(work, memory, prompts, watch)
        with watch.phase("prefill"):
            session.prefill(prompts)
        tracer = TurnTracer(self._lens, work, placement, prompts)
        outputs: list[list[int]] = []
        if work.thinks == "latent":
            piece, segment_bytes = self._think(session, work, watch, outgoing, tracer.seen)
            with watch.phase("trace"):  # the segment has left
                tracer.remember(session)
            memory_tokens = tuple(session.cache.lengths)
        else:
            piece, segment_bytes = None, ()
            with watch.phase("trace"):  # before rows change places
                tracer.remember(session)
            with watch.phase("decode"):
                outputs = session.decode(work.sampling, work.agent, is_last=work.is_last)
            memory_tokens = tuple(
                read + len(prompt) + len(output)
                for read, prompt, output in zip(placement.lengths, prompts, outputs, strict=True)
            )
        del session  # it holds the cache
        self.engine.rest()
        texts = tuple(lm.chat.decode(output) for output in outputs)
        with watch.phase("trace"):
            tracer.look(outputs)
            traces, embeddings = tracer.traces(texts), tracer.embeddings()
        trace_seconds = watch.seconds.pop("trace")
        return piece, TurnReport(
            agent=work.agent,
            prompt_tokens=tuple(map(len, prompts)),
            latent_steps=work.latent_steps if work.thinks == "latent" else 0,
            output_token_ids=tuple(map(tuple, outputs)),
            texts=texts,
            phases=Phases(**watch.seconds),
            segment_bytes=segment_bytes,
            memory_tokens=memory_tokens,
            traces=traces,
            embeddings=embeddings,
            trace_seconds=trace_seconds if tracer.is_on else 0.0,
        )

    @cached_property
    def _lens(self) -> Lens:
        return Lens(self.engine.lm, self.engine.realign)

    def _absorb(
        self,
        work: TurnWork,
        memory: Mapping[str, Segment] | Incoming,
        prompts: Sequence[Sequence[int]],
        watch: Stopwatch,
    ) -> tuple[Session, Placement]:
        """A session that has absorbed the memory, and where each segment stands in it."""
        lm = self.engine.lm
        incoming = Present(memory) if isinstance(memory, Mapping) else memory
        with lm.ranks.agreeing():
            pieces, segments = incoming.pieces(), incoming.segments()
        if work.recipes:
            with watch.phase("absorb"):
                segments = replay(self.engine, work.reads, incoming, work.recipes, work.question_ids)
                pieces = Present(segments).pieces()
        placement = place(work.reads, segments, len(work.question_ids))
        num_coming = work.sampling.max_new_tokens
        if work.thinks == "latent":
            num_coming = work.latent_steps + len(self._closing(work))
        num_known = max(placement.lengths, default=0) + max(map(len, prompts))
        # No row can hold more tokens than the model has positions, whatever the bound on new tokens says.
        num_slots = max(num_known, min(num_known + num_coming, lm.max_positions or sys.maxsize))
        with watch.phase("absorb"), lm.ranks.agreeing():
            session = self.engine.open(work.question_ids, num_slots=num_slots, reads=placement)
            session.absorb(placement, pieces)
        return session, placement

    def _closing(self, work: TurnWork) -> list[int]:
        """What follows the thoughts."""
        return self.engine.lm.chat.turn_terminator if work.close_turn else []

    def measure_prefill(self, num_tokens: int) -> float:
        """Tokens per second of a prefill of one question of `num_tokens`, after one that warms up."""
        lm = self.engine.lm
        num_tokens = min(num_tokens, lm.max_positions or num_tokens)
        watch = Stopwatch(lm.device)
        for phase in ("warm-up", "prefill"):
            session = self.engine.open(["probe"], num_slots=num_tokens)
            with watch.phase(phase):
                session.prefill([[0] * num_tokens])
        return num_tokens / watch.seconds["prefill"]

    def _think(
        self,
        session: Session,
        work: TurnWork,
        watch: Stopwatch,
        outgoing: Outgoing | None,
        seen: list[Tensor] | None,
    ) -> tuple[Piece | None, tuple[int, ...]]:
        """The latent part of a turn. Returns the segment unless it has left, and its bytes per question. `seen` is
        given what the thoughts were made from."""
        closing = self._closing(work)
        make_piece = session.emit_piece if work.handover == "kv" else session.emit_recipe
        recipe_bytes = (0,) * len(work.prompts)
        if outgoing is not None and outgoing.leaves_early:
            with watch.phase("emit"), session.lm.ranks.agreeing():
                final_at = time.time()
                first = make_piece(work.hands_over, work.latent_steps + len(closing), outgoing.reserve)
                outgoing.publish(final_at, first)
                recipe_bytes = first.recipe.bytes_per_question
                del first  # its bytes have been taken over
        with watch.phase("think"):
            session.think(work.latent_steps, seen)
            if closing:
                session.feed([closing] * len(work.prompts))
        with watch.phase("emit"), session.lm.ranks.agreeing():
            final_at = time.time()
            if outgoing is not None:
                piece = make_piece(work.hands_over, reserve=outgoing.reserve)
                outgoing.publish(final_at, piece)
            else:
                piece = (
                    Piece.whole(session.emit(work.hands_over)) if work.handover == "kv" else make_piece(work.hands_over)
                )
        if work.handover == "kv":
            segment_bytes = piece.outline.bytes_per_question
        else:
            segment_bytes = tuple(map(add, recipe_bytes, piece.recipe.bytes_per_question))
        return None if outgoing is not None else piece, segment_bytes


def load_runner(
    model: str, *, dtype: str, device: str, realign: bool, cache_dir: Path | None = None, ranks: Ranks = ALONE
) -> TurnRunner:
    """A model by name, or this rank's shard of it, ready for turns; its realignment is kept in `cache_dir` (default:
    what the environment says). Raises ModelError, ShardError.
    """
    lm = load_model(model, dtype=dtype, device=device, ranks=ranks)
    return TurnRunner(Engine(lm, realign=realign, cache_dir=cache_dir or read_environment().cache_dir))
