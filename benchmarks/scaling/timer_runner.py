"""A runner without a model: a turn takes as long as its prompt says, and hands over a small segment.

Everything around the engine is that of a run. A turn's stamps are seconds of the wall clock of its actor's machine.
"""

import json
import time
from dataclasses import asdict, dataclass

import torch

from latentmas_ray.engine.segment_io import Incoming, Outgoing
from latentmas_ray.engine.turn import Prompt, TurnRequest, TurnResult
from latentmas_ray.memory import KVCacheSpec, RecomputeInputs, RopeSpec, SegmentChunk, SegmentMeta, join
from latentmas_ray.memory.segment import LATENT

LATENT_STEPS = 4
_PROMPT_TOKENS = 8
# Small, so that what is measured is the way and not the bytes: 512 bytes a token.
SPEC = KVCacheSpec.uniform(
    architecture="Timer",
    num_layers=2,
    num_kv_heads=2,
    head_dim=16,
    hidden_size=8,
    dtype="float32",
    rope=RopeSpec("default", (1.0,) * 8),
    weights_revision="timer",
)


@dataclass(frozen=True, kw_only=True)
class TurnStamps:
    """When a turn did what. They travel in the report's texts: a timer has nothing to say."""

    idle_since: float  # the end of this actor's turn before
    begun: float
    present: float  # all memory that is read is here
    ended: float  # the segment is final, or the text is there

    def to_text(self) -> str:
        """The stamps as a text."""
        return json.dumps(asdict(self))

    @staticmethod
    def of(report: TurnResult) -> "TurnStamps":
        """Those of a turn that has reported."""
        return TurnStamps(**json.loads(report.texts[0]))


class TimerRunner:
    """A `Runner` that sleeps. The last word of a prompt is the seconds that its turn takes."""

    spec = SPEC
    device = "cpu"

    def __init__(self) -> None:
        self._idle_since = time.time()

    def run(
        self, work: TurnRequest, memory: Incoming, *, outgoing: Outgoing | None = None
    ) -> tuple[SegmentChunk | None, TurnResult]:
        """One turn: takes in the memory, sleeps, and hands over a segment or writes its stamps as a text."""
        begun = time.time()
        lengths = [0] * len(work.prompts)
        for _, piece in memory.chunks():
            lengths = [length + more for length, more in zip(lengths, piece.lengths, strict=True)]
        present = time.time()
        first, last = make_pieces(tuple(lengths), work.latent_steps)
        leaves_early = outgoing is not None and outgoing.leaves_early
        if outgoing is not None and leaves_early:
            outgoing.publish(time.time(), first)
        time.sleep(max(map(seconds_of, work.prompts)))
        ended = time.time()
        stamps = TurnStamps(idle_since=self._idle_since, begun=begun, present=present, ended=ended)
        whole: SegmentChunk | None = None
        if work.thinks == "latent":
            own = last if leaves_early else SegmentChunk.whole(join([first, last]))
            if outgoing is None:
                whole = own
            else:
                outgoing.publish(ended, own)
        self._idle_since = time.time()
        report = TurnResult(
            agent=work.agent,
            prompt_tokens=(_PROMPT_TOKENS,) * len(work.prompts),
            latent_steps=work.latent_steps,
            output_token_ids=((),) * len(work.prompts) if work.thinks == "text" else (),
            texts=(stamps.to_text(),) * len(work.prompts),
            segment_bytes=first.meta.bytes_per_question if work.thinks == "latent" else (),
        )
        return whole, report

    def measure_prefill(self, num_tokens: int) -> float:
        """Nothing is computed here."""
        raise NotImplementedError("a timer has no prefill")


def seconds_of(prompt: Prompt) -> float:
    """How long the turn of this prompt takes."""
    return float(prompt.messages[-1]["content"].split()[-1])


def make_pieces(turn_starts: tuple[int, ...], latent_steps: int) -> tuple[SegmentChunk, SegmentChunk]:
    """The prompt's and the thoughts' part of a segment whose questions begin at these positions."""
    num_questions = len(turn_starts)
    lengths = (_PROMPT_TOKENS + latent_steps,) * num_questions
    outline = SegmentMeta(SPEC, lengths, turn_starts, (0,) * num_questions, lengths)
    return _piece(outline, 0, _PROMPT_TOKENS, 0), _piece(outline, _PROMPT_TOKENS, latent_steps, LATENT)


def _piece(outline: SegmentMeta, begin: int, length: int, token_id: int) -> SegmentChunk:
    """`length` tokens of each question from number `begin` on, all of them `token_id`."""
    spec, num_questions = outline.spec, outline.num_questions
    num_tokens = length * num_questions
    lengths = (length,) * num_questions
    latents_NE = torch.zeros(num_tokens if token_id == LATENT else 0, spec.hidden_size)
    recompute_inputs = RecomputeInputs(torch.full((num_tokens,), token_id), latents_NE, lengths)
    kv_LCHTD = torch.zeros(spec.num_layers, 2, spec.num_kv_heads, num_tokens, spec.head_dim)
    return SegmentChunk.from_tensor(outline, (begin,) * num_questions, lengths, kv_LCHTD, recompute_inputs)
