"""Carries out a `TurnWork` on an engine and reports what it did. Local runtime and Ray actors both call this."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.session import Session
from latentmas_ray.engine.stopwatch import Stopwatch
from latentmas_ray.engine.turn import Phases, TurnReport, TurnWork
from latentmas_ray.env import read_environment
from latentmas_ray.memory import KVCacheSpec, Outline, Piece, Segment, place
from latentmas_ray.models import load_model


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
        segments: Mapping[str, Segment | Outline],
        *,
        arriving: Iterable[tuple[str, Piece]] | None = None,
        publish: Callable[[float, Piece], None] | None = None,
    ) -> tuple[Segment | None, TurnReport]:
        """One turn: absorb `segments`, prefill, think and emit, or decode.

        Segments may still be on their way: then outlines are given in their place, and `arriving` gives their pieces
        with the agent of each, waiting where it must. With `publish` the turn's own segment leaves in two pieces: the
        prompt's as soon as it is final, the rest at the end; it is told the time (seconds of the wall clock) when the
        piece became final.
        Returns the segment (None for a text agent, and if it was published) and the report. Raises SegmentError,
        ContextLengthError, ModelError, and what `arriving` and `publish` raise.
        """
        lm = self.engine.lm
        watch = Stopwatch(lm.device)
        with watch.phase("prefill"):
            prompts = [lm.chat.encode(prompt.messages, prompt.template, prompt.suffix) for prompt in work.prompts]
        placement = place(work.reads, segments, len(work.question_ids))
        closing = lm.chat.turn_terminator if work.close_turn else []
        num_coming = work.latent_steps + len(closing) if work.thinks == "latent" else work.sampling.max_new_tokens
        num_known = max(placement.lengths, default=0) + max(map(len, prompts))
        # No row can hold more tokens than the model has positions, whatever the bound on new tokens says.
        num_slots = max(num_known, min(num_known + num_coming, lm.max_positions or sys.maxsize))
        with watch.phase("absorb"):
            session = self.engine.open(work.question_ids, num_slots=num_slots, reads=placement)
            session.absorb(placement, arriving)
        with watch.phase("prefill"):
            session.prefill(prompts)
        outputs: list[list[int]] = []
        if work.thinks == "latent":
            segment, segment_bytes = self._think(session, work, closing, watch, publish)
            memory_tokens = tuple(session.cache.lengths)
        else:
            segment, segment_bytes = None, ()
            with watch.phase("decode"):
                outputs = session.decode(work.sampling, work.agent, is_last=work.is_last)
            memory_tokens = tuple(
                read + len(prompt) + len(output)
                for read, prompt, output in zip(placement.lengths, prompts, outputs, strict=True)
            )
        return segment, TurnReport(
            agent=work.agent,
            prompt_tokens=tuple(map(len, prompts)),
            latent_steps=work.latent_steps if work.thinks == "latent" else 0,
            output_token_ids=tuple(map(tuple, outputs)),
            texts=tuple(lm.chat.decode(output) for output in outputs),
            phases=Phases(**watch.seconds),
            segment_bytes=segment_bytes,
            memory_tokens=memory_tokens,
        )

    def _think(
        self,
        session: Session,
        work: TurnWork,
        closing: Sequence[int],
        watch: Stopwatch,
        publish: Callable[[float, Piece], None] | None,
    ) -> tuple[Segment | None, tuple[int, ...]]:
        """The latent part of a turn. Returns the segment unless it was published, and its bytes per question."""
        if publish is not None:
            with watch.phase("emit"):
                publish(time.time(), session.emit_piece(work.hands_over, work.latent_steps + len(closing)))
        with watch.phase("think"):
            session.think(work.latent_steps)
            if closing:
                session.feed([closing] * len(work.prompts))
        with watch.phase("emit"):
            if publish is None:
                segment = session.emit(work.hands_over)
                return segment, segment.bytes_per_question
            final_at = time.time()
            piece = session.emit_piece(work.hands_over)
            publish(final_at, piece)
            return None, piece.outline.bytes_per_question


def load_runner(model: str, *, dtype: str, device: str, realign: bool) -> TurnRunner:
    """A model by name, ready for turns; its realignment is kept in this machine's cache folder.

    Raises ModelError.
    """
    lm = load_model(model, dtype=dtype, device=device)
    return TurnRunner(Engine(lm, realign=realign, cache_dir=read_environment().cache_dir))
