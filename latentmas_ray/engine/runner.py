"""Carries out a `TurnWork` on an engine and reports what it did. Local runtime and Ray actors both call this."""

from collections.abc import Mapping

import torch

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.stopwatch import Stopwatch
from latentmas_ray.engine.turn import Phases, TurnReport, TurnWork
from latentmas_ray.env import read_environment
from latentmas_ray.memory import KVCacheSpec, Segment, place
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

    def run(self, work: TurnWork, segments: Mapping[str, Segment]) -> tuple[Segment | None, TurnReport]:
        """One turn: absorb `segments`, prefill, think and emit, or decode.

        Returns the segment (None for a text agent) and the report. Raises SegmentError, ContextLengthError, ModelError.
        """
        lm = self.engine.lm
        watch = Stopwatch(lm.device)
        with watch.phase("prefill"):
            prompts = [lm.chat.encode(prompt.messages, prompt.template, prompt.suffix) for prompt in work.prompts]
        placement = place(work.reads, segments, len(work.question_ids))
        closing = lm.chat.turn_terminator if work.close_turn else []
        new_tokens = work.latent_steps + len(closing) if work.thinks == "latent" else work.sampling.max_new_tokens
        num_slots = max(placement.lengths, default=0) + max(map(len, prompts)) + new_tokens
        with watch.phase("absorb"):
            session = self.engine.open(work.question_ids, num_slots=num_slots, reads=placement)
            session.absorb(placement)
        with watch.phase("prefill"):
            session.prefill(prompts)
        segment, outputs = None, []
        if work.thinks == "latent":
            with watch.phase("think"):
                session.think(work.latent_steps)
                if closing:
                    session.feed([closing] * len(prompts))
            with watch.phase("emit"):
                segment = session.emit(work.hands_over)
            memory_tokens = tuple(session.cache.lengths)
        else:
            with watch.phase("decode"):
                outputs = session.decode(work.sampling, work.agent)
            memory_tokens = tuple(
                read + len(prompt) + len(output)
                for read, prompt, output in zip(placement.lengths, prompts, outputs, strict=True)
            )
        return segment, TurnReport(
            agent=work.agent,
            prompt_tokens=tuple(map(len, prompts)),
            latent_steps=work.latent_steps if segment else 0,
            output_token_ids=tuple(map(tuple, outputs)),
            texts=tuple(lm.chat.decode(output) for output in outputs),
            phases=Phases(**watch.seconds),
            segment_bytes=segment.bytes_per_question if segment else (),
            memory_tokens=memory_tokens,
        )


def load_runner(model: str, *, dtype: str, device: str, realign: bool) -> TurnRunner:
    """A model by name, ready for turns; its realignment is kept in this machine's cache folder.

    Raises ModelError.
    """
    lm = load_model(model, dtype=dtype, device=device)
    return TurnRunner(Engine(lm, realign=realign, cache_dir=read_environment().cache_dir))
