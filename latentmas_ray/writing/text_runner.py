"""What an actor of text agents loads: an engine that writes, and what it needs where that does not suffice."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentmas_ray.engine.segment_io import Incoming, Outgoing
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import OnTokens, Sampling, TurnRequest, TurnResult
from latentmas_ray.errors import TurnError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.writing.text_engine import TextEngine, TextRequest
from latentmas_ray.writing.writer import Recompute, Translate

if TYPE_CHECKING:
    from latentmas_ray.engine.runner import TurnRunner


@dataclass(frozen=True, kw_only=True, eq=False)
class TextRunner:
    """A loaded model that writes texts.

    `turns` is our own engine on the same model; it executes the turns that need hidden states (traced questions), one
    whole turn at a time. `recompute` and `translate` are those of `Writer`.
    """

    engine: TextEngine
    turns: "TurnRunner | None" = None
    recompute: Recompute | None = None
    translate: Translate | None = None

    @property
    def spec(self) -> KVCacheSpec:
        """Shape and dtype of the memory that it reads."""
        return self.engine.spec

    @property
    def device(self) -> str:
        """The device it computes on, for the log."""
        return self.engine.device

    @property
    def progress(self) -> TurnProgress | None:
        """How far a turn is that `run` executes now; None between such turns. Any thread may ask."""
        return None if self.turns is None else self.turns.progress

    def run(
        self,
        work: TurnRequest,
        memory: Incoming,
        *,
        outgoing: Outgoing | None = None,
        on_tokens: OnTokens | None = None,
    ) -> tuple[SegmentChunk | None, TurnResult]:
        """Execute a turn that the engine cannot write. Raises TurnError without `turns`, else like `TurnRunner.run`."""
        if self.turns is None:
            raise TurnError(f"agent {work.agent}: hidden states are not available on this engine")
        return self.turns.run(work, memory, outgoing=outgoing, on_tokens=on_tokens)

    def measure_prefill(self, num_tokens: int) -> float:
        """Measure a prefill of `num_tokens`, in tokens per second, after a warm-up. Nothing else may run."""
        num_tokens = min(num_tokens, (self.engine.max_positions or num_tokens + 1) - 1)
        seconds = 0.0
        for key in ("warm-up", "prefill"):
            # Other tokens each time: an engine may keep what it computed for a prompt.
            first = int(key == "prefill")
            request = TextRequest(
                key=key,
                question_id=key,
                agent="",
                prompt_ids=tuple((first + index) % 2 for index in range(num_tokens)),
                sampling=Sampling(max_new_tokens=1),
            )
            begin = time.perf_counter()
            self.engine.start(request)
            while not any(output.end for output in self.engine.step()):
                pass
            seconds = time.perf_counter() - begin
        return num_tokens / seconds
