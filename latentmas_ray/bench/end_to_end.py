"""What a user feels: from "agent 1 has finished thinking" to "agent 2 has absorbed", with real agents on Ray."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from latentmas_ray.actors import RayRuntime
from latentmas_ray.bench.transfer_settings import TransferBenchSettings
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.load import load_runner
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.segment_io import Incoming, Outgoing
from latentmas_ray.engine.turn import Prompt, Sampling, TurnRequest, TurnResult
from latentmas_ray.env import read_environment
from latentmas_ray.errors import RunError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.models.presets import SHAPES, random_model
from latentmas_ray.scheduler.events import TurnDone, TurnFailed, TurnLost
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.transport import pick_transport

WRITER, READER = "writer", "reader"
_PATIENCE_SECONDS = 3600.0
_MAX_REPEATS = 3  # whole turns of a model take long


@dataclass(frozen=True, kw_only=True)
class Felt:
    """Medians over the repeats, in seconds."""

    seconds: float  # from the end of thinking to the end of absorbing, by the agents' own clocks
    exposed_seconds: float  # of it, as a run's results tell it


@dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """Two agents, with overlap and without."""

    prompt_tokens: int  # as the model's tokenizer makes them
    latent_steps: int
    num_bytes: int
    transport: str
    link: str
    overlap: Felt
    no_overlap: Felt
    ratio: float  # seconds without overlap / with


@dataclass(frozen=True)
class _Times:
    """One hand-over between two turns."""

    finished_at: float
    absorbed_at: float
    report: TurnResult
    prompt_tokens: int


class ClockedRunner:
    """A `TurnRunner` that tells when its thinking ended and when its reading did.

    The times travel in the report's texts: the agents of a benchmark have nothing to say.
    """

    def __init__(self, runner: TurnRunner) -> None:
        self._runner = runner

    @property
    def spec(self) -> KVCacheSpec:
        """What its memory looks like."""
        return self._runner.spec

    @property
    def device(self) -> str:
        """Where it computes."""
        return self._runner.device

    def measure_prefill(self, num_tokens: int) -> float:
        """Tokens per second."""
        return self._runner.measure_prefill(num_tokens)

    def run(
        self, work: TurnRequest, memory: Incoming, *, outgoing: Outgoing | None = None
    ) -> tuple[SegmentChunk | None, TurnResult]:
        """One turn."""
        watched = _Watched(memory)
        clocked = None if outgoing is None else _Clocked(outgoing)
        piece, report = self._runner.run(work, watched, outgoing=clocked)
        times = {"finished_at": clocked.finished_at if clocked else 0.0, "absorbed_at": watched.absorbed_at}
        return piece, replace(report, texts=(json.dumps(times),))


class _Watched:
    """Memory that notes when the last of its pieces was absorbed."""

    def __init__(self, memory: Incoming) -> None:
        self.absorbed_at = 0.0
        self._memory = memory
        self.segments, self.chunks_of = memory.segments, memory.chunks_of

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        """The pieces; the last is in the cache when the next one is asked for."""
        yield from self._memory.chunks()
        self.absorbed_at = time.time()


class _Clocked:
    """An outgoing way that notes when the last piece was final."""

    def __init__(self, outgoing: Outgoing) -> None:
        self.finished_at = 0.0
        self.leaves_early, self.reserve = outgoing.leaves_early, outgoing.reserve
        self._outgoing = outgoing

    def publish(self, final_at: float, piece: SegmentChunk) -> None:
        """Pass the piece on."""
        self.finished_at = final_at
        self._outgoing.publish(final_at, piece)


def make_clocked(model: str, dtype: str) -> ClockedRunner:
    """A runner of a model by name, or of a well-known shape with random weights. Raises ModelError."""
    if model not in SHAPES:
        return ClockedRunner(load_runner(model, dtype=dtype, device="auto", realign=True))
    lm = random_model(model, dtype="bfloat16" if dtype == "auto" else dtype)
    return ClockedRunner(TurnRunner(Engine(lm, realign=True, cache_dir=read_environment().cache_dir)))


def measure_end_to_end(settings: TransferBenchSettings, progress: Callable[[str], None]) -> EndToEnd:
    """Let two agents work, with overlap and without. Raises what a run raises."""
    times = {overlap: _measure(settings, overlap, progress) for overlap in (True, False)}
    read = times[True][0].report.reads[0]
    felt = {
        overlap: Felt(
            seconds=median(one.absorbed_at - one.finished_at for one in ones),
            exposed_seconds=median(one.report.reads[0].exposed_seconds for one in ones),
        )
        for overlap, ones in times.items()
    }
    return EndToEnd(
        prompt_tokens=times[True][0].prompt_tokens,
        latent_steps=settings.latent_steps,
        num_bytes=read.num_bytes,
        transport=read.transport,
        link=read.link,
        overlap=felt[True],
        no_overlap=felt[False],
        ratio=felt[False].seconds / felt[True].seconds,
    )


def _measure(settings: TransferBenchSettings, overlap: bool, progress: Callable[[str], None]) -> list[_Times]:
    runtime = RayRuntime(
        [WRITER, READER],
        partial(make_clocked, settings.model, settings.dtype),
        partial(pick_transport, "auto", "none"),
        address=settings.address,
        overlap=overlap,
    )
    with closing(runtime):
        runtime.start()
        name = "with overlap" if overlap else "without overlap"
        times = []
        num_repeats = min(settings.repeats, _MAX_REPEATS)
        for repeat in range(num_repeats + 1):
            one = _one(runtime, settings, repeat)
            if repeat == 0:  # caches are made and pages touched
                continue
            times.append(one)
            seconds = one.absorbed_at - one.finished_at
            progress(f"end to end {name}, {repeat} of {num_repeats}: {seconds:.4f} s")
        return times


def _one(runtime: RayRuntime, settings: TransferBenchSettings, batch: int) -> _Times:
    """One question through both agents; both turns are submitted at once, as in a run."""
    common = {"batch": batch, "question_ids": ("q0",), "sampling": Sampling(max_new_tokens=1)}
    write = TurnRequest(
        agent=WRITER,
        prompts=(_prompt("w" * settings.prompt_tokens),),
        thinks="latent",
        latent_steps=settings.latent_steps,
        **common,  # type: ignore[arg-type]
    )
    read = TurnRequest(
        agent=READER,
        prompts=(_prompt("r"),),
        thinks="text",
        reads=(AgentMemory(WRITER),),
        is_last=True,
        **common,  # type: ignore[arg-type]
    )
    written = runtime.submit(write, {})
    reading = runtime.submit(read, {WRITER: written.segment})
    reports = {}
    waiting = [written, reading]
    while waiting:
        for event in runtime.poll(_PATIENCE_SECONDS):
            if isinstance(event, TurnFailed):
                raise event.error
            if isinstance(event, TurnLost):
                raise RunError(event.reason)
            if isinstance(event, TurnDone):
                reports[event.handle.agent] = event.result
                waiting.remove(event.handle)
    return _Times(
        finished_at=json.loads(reports[WRITER].texts[0])["finished_at"],
        absorbed_at=json.loads(reports[READER].texts[0])["absorbed_at"],
        report=reports[READER],
        prompt_tokens=reports[WRITER].prompt_tokens[0],
    )


def _prompt(text: str) -> Prompt:
    return Prompt(messages=({"role": "user", "content": text},))
