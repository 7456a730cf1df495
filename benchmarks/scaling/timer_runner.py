"""A runner without a model: a turn sleeps for the seconds that its prompt says and writes a small segment.

All but the engine is as in a run. Times are seconds of the wall clock of the actor's machine.
"""

import json
import time
from dataclasses import asdict, dataclass

import torch

from latentmas_ray.engine.segment_io import Incoming, Outgoing
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import OnTokens, Prompt, TurnRequest, TurnResult
from latentmas_ray.memory import KVCacheSpec, RecomputeInputs, RopeSpec, SegmentChunk, SegmentMeta, join
from latentmas_ray.memory.segment import LATENT

LATENT_STEPS = 4
_PROMPT_TOKENS = 8
# Small (512 bytes per token), so that latency is measured and not bandwidth.
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
    """The times of one turn, returned in its result's `texts`."""

    idle_since: float  # the end of this actor's previous turn
    begun: float
    present: float  # all memory that it reads has arrived
    ended: float  # the segment or the text is final

    def to_text(self) -> str:
        """Return the times as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def of(result: TurnResult) -> "TurnStamps":
        """Read the times from a turn's result."""
        return TurnStamps(**json.loads(result.texts[0]))


class TimerRunner:
    """A `Runner` that sleeps. The last word of a prompt is the number of seconds."""

    spec = SPEC
    device = "cpu"

    def __init__(self) -> None:
        self._idle_since = time.time()

    def run(
        self,
        work: TurnRequest,
        memory: Incoming,
        *,
        outgoing: Outgoing | None = None,
        on_tokens: OnTokens | None = None,
    ) -> tuple[SegmentChunk | None, TurnResult]:
        """Absorb the memory, sleep, and return a segment or a text with the times."""
        begun = time.time()
        lengths = [0] * len(work.prompts)
        for _, chunk in memory.chunks():
            lengths = [length + more for length, more in zip(lengths, chunk.lengths, strict=True)]
        present = time.time()
        first, last = make_chunks(tuple(lengths), work.latent_steps)
        overlaps = outgoing is not None and outgoing.overlaps
        if outgoing is not None and overlaps:
            outgoing.publish(time.time(), first)
        self.compute(max(map(seconds_of, work.prompts)))
        ended = time.time()
        stamps = TurnStamps(idle_since=self._idle_since, begun=begun, present=present, ended=ended)
        whole: SegmentChunk | None = None
        if work.thinks == "latent":
            own = last if overlaps else SegmentChunk.whole(join([first, last]))
            if outgoing is None:
                whole = own
            else:
                outgoing.publish(ended, own)
        self._idle_since = time.time()
        result = TurnResult(
            agent=work.agent,
            prompt_tokens=(_PROMPT_TOKENS,) * len(work.prompts),
            latent_steps=work.latent_steps,
            output_token_ids=((),) * len(work.prompts) if work.thinks == "text" else (),
            texts=(stamps.to_text(),) * len(work.prompts),
            segment_bytes=first.meta.bytes_per_question if work.thinks == "latent" else (),
        )
        return whole, result

    def compute(self, seconds: float) -> None:
        """Return when the seconds of a turn have passed."""
        time.sleep(seconds)

    @property
    def progress(self) -> TurnProgress | None:
        """Not known."""
        return None

    def measure_prefill(self, num_tokens: int) -> float:
        """Not supported."""
        raise NotImplementedError("a timer has no prefill")


def seconds_of(prompt: Prompt) -> float:
    """Return the seconds that the turn of this prompt takes."""
    return float(prompt.messages[-1]["content"].split()[-1])


def make_chunks(turn_starts: tuple[int, ...], latent_steps: int) -> tuple[SegmentChunk, SegmentChunk]:
    """Return the prompt's and the thoughts' chunk of a segment whose questions start at these positions."""
    num_questions = len(turn_starts)
    lengths = (_PROMPT_TOKENS + latent_steps,) * num_questions
    meta = SegmentMeta(SPEC, lengths, turn_starts, (0,) * num_questions, lengths)
    return _make_chunk(meta, 0, _PROMPT_TOKENS, 0), _make_chunk(meta, _PROMPT_TOKENS, latent_steps, LATENT)


def _make_chunk(meta: SegmentMeta, begin: int, length: int, token_id: int) -> SegmentChunk:
    """Return a chunk of `length` tokens per question from position `begin`, all of them `token_id`."""
    spec, num_questions = meta.spec, meta.num_questions
    num_tokens = length * num_questions
    lengths = (length,) * num_questions
    latents_NE = torch.zeros(num_tokens if token_id == LATENT else 0, spec.hidden_size)
    recompute_inputs = RecomputeInputs(torch.full((num_tokens,), token_id), latents_NE, lengths)
    kv_LCHTD = torch.zeros(spec.num_layers, 2, spec.num_kv_heads, num_tokens, spec.head_dim)
    return SegmentChunk.from_tensor(meta, (begin,) * num_questions, lengths, kv_LCHTD, recompute_inputs)
