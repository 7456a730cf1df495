"""Runners without a model: they wait, record their turns, and fail on request.

Ray's workers import this module, so it needs nothing that only tests have.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from latentmas_ray.engine.segment_io import Incoming, Outgoing
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import Prompt, TurnRequest, TurnResult
from latentmas_ray.errors import ModelError, QuestionsTooLongError
from latentmas_ray.memory import KVCacheSpec, RecomputeInputs, RopeSpec, Segment, SegmentChunk, join
from latentmas_ray.parallel.ranks import Ranks
from latentmas_ray.writing.text_engine import TextOutput, TextRequest
from tests.cases.scripted_engine import ScriptedEngine

# 32 KiB a token: a few hundred tokens are a segment that Ray keeps in its object store and not inside the reply.
SPEC = KVCacheSpec.uniform(
    architecture="StandIn",
    num_layers=8,
    num_kv_heads=8,
    head_dim=64,
    hidden_size=2,
    dtype="float32",
    rope=RopeSpec("default", (1.0,)),
    weights_revision="stand-in",
)


POISON = 13  # a batch on which `Fragile` misbehaves


@dataclass(frozen=True)
class Turn:
    """One turn as the runner that carried it out wrote it down; seconds are of the machine's monotonic clock."""

    agent: str
    batch: int
    begin: float
    end: float
    pid: int
    read: Mapping[str, float]  # by source: the number that the source fills its segments with


@dataclass
class StandIn:
    """A `Runner`. It waits as long as the prompt says (`wait 0.5 …`) and writes a segment of one token per byte of
    the prompt, filled with its agent's own number."""

    folder: Path
    misbehave: Sequence[Callable[[TurnRequest], None]] = ()
    spec: KVCacheSpec = SPEC
    device: str = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES", "none"))

    def run(
        self, work: TurnRequest, memory: Incoming, *, outgoing: Outgoing | None = None
    ) -> tuple[SegmentChunk | None, TurnResult]:
        """Thinks (waits) after its prompt was published; then the other half of the segment follows."""
        lengths = tuple(len(prompt.messages[-1]["content"].encode()) for prompt in work.prompts)
        first, last = halves(_segment(lengths, number_of(work.agent)))
        read = {source: float(piece.kv_LCHTD.flatten()[0]) for source, piece in memory.chunks() if sum(piece.lengths)}
        begin = time.monotonic()
        overlaps = outgoing is not None and outgoing.overlaps
        if outgoing is not None and overlaps:
            outgoing.publish(time.time(), first)
        for misbehave in self.misbehave:
            misbehave(work)
        time.sleep(max(_seconds_to_wait(prompt) for prompt in work.prompts))
        turn = Turn(work.agent, work.batch, begin, time.monotonic(), os.getpid(), read)
        with (self.folder / "turns.jsonl").open("a") as file:
            file.write(json.dumps(turn.__dict__) + "\n")
        if work.thinks == "text":
            texts = tuple(f"{name}: {work.agent} has read {sorted(read)}" for name in work.question_ids)
            tokens = tuple(tuple(text.encode()) for text in texts)
            return None, TurnResult(agent=work.agent, prompt_tokens=lengths, texts=texts, output_token_ids=tokens)
        report = TurnResult(agent=work.agent, prompt_tokens=lengths, segment_bytes=first.meta.bytes_per_question)
        piece = last if overlaps else SegmentChunk.whole(join([first, last]))
        if outgoing is None:
            return piece, report
        outgoing.publish(time.time(), piece)
        return None, report

    @property
    def progress(self) -> TurnProgress | None:
        """Not known."""
        return None

    def measure_prefill(self, num_tokens: int) -> float:
        return 1000.0


@dataclass
class TextStandIn(ScriptedEngine):
    """A `TextEngine` that writes what `StandIn` writes. What a question raises is its own error."""

    misbehave: Sequence[Callable[[TurnRequest], None]] = ()
    asked: dict[str, TextRequest] = field(default_factory=dict)

    def start(self, request: TextRequest) -> None:
        self.asked[request.key] = request

    def abort(self, keys: Collection[str]) -> None:
        for key in keys:
            self.asked.pop(key, None)

    def step(self) -> list[TextOutput]:
        asked, self.asked = self.asked, {}
        return [self._write(request) for request in asked.values()]

    def _write(self, request: TextRequest) -> TextOutput:
        name = request.question_id
        work = TurnRequest(
            agent=request.agent, batch=0, question_ids=(name,), prompts=(), thinks="text", sampling=request.sampling
        )
        try:
            for misbehave in self.misbehave:
                misbehave(work)
        except Exception as error:  # noqa: BLE001  whatever a test wants
            return TextOutput(key=request.key, end="error", error=str(error))
        parts = () if request.memory is None else request.memory.parts
        numbers = {float(part.kv_LCHTD.flatten()[0]) for part in parts}
        read = [source for source in ("planner",) if number_of(source) in numbers]
        text = f"{name}: {request.agent} has read {read}"
        return TextOutput(key=request.key, token_ids=tuple(text.encode()), end="stop")


def _seconds_to_wait(prompt: Prompt) -> float:
    words = prompt.messages[-1]["content"].split()
    return float(words[1]) if words[0] == "wait" else 0.0


def _segment(lengths: tuple[int, ...], number: float) -> Segment:
    shape = (SPEC.num_layers, 2, SPEC.num_kv_heads, sum(lengths), SPEC.head_dim)
    recompute_inputs = RecomputeInputs(
        torch.zeros(sum(lengths), dtype=torch.int64), torch.zeros(0, SPEC.hidden_size), lengths
    )
    return Segment.from_tensor(
        SPEC, torch.full(shape, number), lengths, (0,) * len(lengths), (0,) * len(lengths), recompute_inputs
    )


def halves(segment: Segment) -> tuple[SegmentChunk, SegmentChunk]:
    """A segment without thoughts as two pieces."""
    outline = segment.meta
    first = tuple(length // 2 for length in segment.lengths)
    rest = tuple(length - half for length, half in zip(segment.lengths, first, strict=True))

    def piece(begins: tuple[int, ...], lengths: tuple[int, ...]) -> SegmentChunk:
        kv = [segment.kv_of(q)[:, :, :, b : b + n] for q, (b, n) in enumerate(zip(begins, lengths, strict=True))]
        recompute_inputs = RecomputeInputs(
            torch.zeros(sum(lengths), dtype=torch.int64), torch.zeros(0, SPEC.hidden_size), lengths
        )
        return SegmentChunk.from_tensor(outline, begins, lengths, torch.cat(kv, dim=3), recompute_inputs)

    return piece((0,) * len(first), first), piece(first, rest)


def number_of(agent: str) -> float:
    """What `agent` fills its segments with."""
    return float(sum(agent.encode()))


def turns_in(folder: Path) -> list[Turn]:
    """All turns that were carried out so far, in the order of their ends."""
    path = folder / "turns.jsonl"
    return [Turn(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass(frozen=True)
class On:
    """Misbehave where `agent` works on `question`, as long as the file `armed` is there (always without one)."""

    agent: str
    question: str
    deed: Callable[[], None]
    armed: Path | None = None

    def __call__(self, work: TurnRequest) -> None:
        is_armed = self.armed is None or self.armed.exists()
        if is_armed and work.agent == self.agent and self.question in work.question_ids:
            self.deed()


def die() -> None:
    """End this process at once, as a crash in native code would."""
    os._exit(1)


def raise_error() -> None:
    raise RuntimeError("the runner did not like this question")


def raise_too_long(agent: str, *questions: str) -> None:
    raise QuestionsTooLongError(agent, {name: f"{name} needs 9 positions, the model has 8" for name in questions})


class UnpicklableError(Exception):
    """Cannot leave its process."""

    def __init__(self) -> None:
        super().__init__("nothing can carry this")
        self.handle = open(os.devnull)  # noqa: SIM115, PTH123 -- an open file, for it cannot be pickled


class OneWayError(Exception):
    """Can be pickled, but not unpickled: its constructor needs more than its message."""

    def __init__(self, part: str, whole: str) -> None:
        super().__init__(f"{part} of {whole} broke")


def raise_unpicklable() -> None:
    raise UnpicklableError


def raise_one_way() -> None:
    raise OneWayError("half", "it")


def refuse_model(*args: Any, **kwargs: Any) -> StandIn:
    """A loader that finds the model bad; stands in for `load_runner`."""
    raise ModelError("model", "made-up", "its weights must load: half of them are missing")


def die_once(armed: Path) -> None:
    """Die, and take the weapon away."""
    armed.unlink()
    die()


def hang_once(armed: Path) -> None:
    """Never come back, and take the weapon away."""
    armed.unlink()
    while True:
        time.sleep(60.0)


def raise_once(armed: Path) -> None:
    """Raise, and take the weapon away."""
    armed.unlink()
    raise_error()


class Fragile:
    """A runner without a model whose ranks execute every turn together; it fails on chosen batches."""

    device = "cpu"

    def __init__(self, deeds: Mapping[int, Callable[[], None]], ranks: Ranks) -> None:
        """`deeds` by rank."""
        self.spec = SPEC.of_shard(ranks.shard)
        self._ranks, self._deeds = ranks, deeds

    def run(self, work: TurnRequest, memory: Any, *, outgoing: Any = None) -> tuple[None, TurnResult]:
        if work.batch == POISON and self._ranks.shard.rank in self._deeds:
            self._deeds[self._ranks.shard.rank]()
        (batch,) = self._ranks.broadcast(torch.tensor([work.batch])).tolist()
        return None, TurnResult(agent=work.agent, prompt_tokens=(1, 1, 1), output_token_ids=((batch,),) * 3)
