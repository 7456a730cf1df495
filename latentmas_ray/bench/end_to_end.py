"""Measures the delay between two real agents on Ray: from the end of agent 1's thinking until agent 2 has absorbed its
memory, with overlap and without."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from latentmas_ray.actors import RayRuntime
from latentmas_ray.actors.replicas.request import ReplicaRequest
from latentmas_ray.bench.transfer_settings import TransferBenchSettings
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.load import load_runner
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.segment_io import Incoming, Outgoing
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import OnTokens, Prompt, Sampling, TurnRequest, TurnResult
from latentmas_ray.env import read_environment
from latentmas_ray.errors import RunError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.models.presets import SHAPES, random_model
from latentmas_ray.scheduler.protocol import TurnDone, TurnFailed, TurnLost
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.transport import pick_transport

WRITER, READER = "writer", "reader"
_TIMEOUT_SECONDS = 3600.0
_MAX_REPEATS = 3  # whole turns of a model take long


@dataclass(frozen=True, kw_only=True)
class EndToEndTimes:
    """Times of transfers in seconds, medians over the repeats."""

    seconds: float  # from the end of thinking to the end of absorbing, by the agents' own clocks
    exposed_seconds: float  # the part that a run's results report as exposed


@dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """The figures of two agents, with overlap and without."""

    prompt_tokens: int  # counted by the model's tokenizer
    latent_steps: int
    num_bytes: int
    transport: str
    link: str
    overlap: EndToEndTimes
    no_overlap: EndToEndTimes
    ratio: float  # seconds without overlap / with


@dataclass(frozen=True)
class _TimedTransfer:
    """One transfer between two turns."""

    finished_at: float
    absorbed_at: float
    result: TurnResult
    prompt_tokens: int


class TimestampedRunner:
    """A `TurnRunner` that records when it finished thinking and when it had absorbed its memory.

    The times are returned in the result's `texts`, which a benchmark does not need.
    """

    def __init__(self, runner: TurnRunner) -> None:
        self._runner = runner

    @property
    def spec(self) -> KVCacheSpec:
        """Shape and dtype of its working memory."""
        return self._runner.spec

    @property
    def device(self) -> str:
        """The device it computes on."""
        return self._runner.device

    @property
    def progress(self) -> TurnProgress | None:
        """How far the running turn is."""
        return self._runner.progress

    def measure_prefill(self, num_tokens: int) -> float:
        """Return the tokens per second of a prefill."""
        return self._runner.measure_prefill(num_tokens)

    def run(
        self,
        work: TurnRequest,
        memory: Incoming,
        *,
        outgoing: Outgoing | None = None,
        on_tokens: OnTokens | None = None,
    ) -> tuple[SegmentChunk | None, TurnResult]:
        """Execute one turn."""
        incoming = _TimedIncoming(memory)
        timed = None if outgoing is None else _TimedOutgoing(outgoing)
        chunk, result = self._runner.run(work, incoming, outgoing=timed)
        times = {"finished_at": timed.finished_at if timed else 0.0, "absorbed_at": incoming.absorbed_at}
        return chunk, replace(result, texts=(json.dumps(times),))


class _TimedIncoming:
    """Incoming memory that records when its last chunk was absorbed."""

    def __init__(self, memory: Incoming) -> None:
        self.absorbed_at = 0.0
        self._memory = memory
        self.segments, self.chunks_of = memory.segments, memory.chunks_of

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        """Yield the chunks; the last one is in the cache when the generator is resumed."""
        yield from self._memory.chunks()
        self.absorbed_at = time.time()


class _TimedOutgoing:
    """An `Outgoing` that records when the last chunk was final."""

    def __init__(self, outgoing: Outgoing) -> None:
        self.finished_at = 0.0
        self.overlaps, self.reserve = outgoing.overlaps, outgoing.reserve
        self._outgoing = outgoing

    def publish(self, final_at: float, piece: SegmentChunk) -> None:
        """Record the time and pass the chunk on."""
        self.finished_at = final_at
        self._outgoing.publish(final_at, piece)


def make_timestamped(model: str, dtype: str) -> TimestampedRunner:
    """Return a runner of a model by name, or of a well-known shape with random weights. Raises ModelError."""
    if model not in SHAPES:
        return TimestampedRunner(load_runner(model, dtype=dtype, device="auto", thoughts="realign"))
    lm = random_model(model, dtype="bfloat16" if dtype == "auto" else dtype)
    return TimestampedRunner(TurnRunner(Engine(lm, thoughts="realign", cache_dir=read_environment().cache_dir)))


def measure_end_to_end(settings: TransferBenchSettings, progress: Callable[[str], None]) -> EndToEnd:
    """Measure two agents, with overlap and without. Raises what a run raises."""
    times = {overlap: _measure(settings, overlap, progress) for overlap in (True, False)}
    read = times[True][0].result.reads[0]
    medians = {
        overlap: EndToEndTimes(
            seconds=median(one.absorbed_at - one.finished_at for one in ones),
            exposed_seconds=median(one.result.reads[0].exposed_seconds for one in ones),
        )
        for overlap, ones in times.items()
    }
    return EndToEnd(
        prompt_tokens=times[True][0].prompt_tokens,
        latent_steps=settings.latent_steps,
        num_bytes=read.num_bytes,
        transport=read.transport,
        link=read.link,
        overlap=medians[True],
        no_overlap=medians[False],
        ratio=medians[False].seconds / medians[True].seconds,
    )


def _measure(settings: TransferBenchSettings, overlap: bool, progress: Callable[[str], None]) -> list[_TimedTransfer]:
    request = ReplicaRequest(
        agents=(WRITER, READER),
        replicas=dict.fromkeys((WRITER, READER), 1),
        make_runner=partial(make_timestamped, settings.model, settings.dtype),
    )
    runtime = RayRuntime(
        request,
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
            one = _run_two_turns(runtime, settings, repeat)
            if repeat == 0:  # warm-up: allocates caches and touches pages
                continue
            times.append(one)
            seconds = one.absorbed_at - one.finished_at
            progress(f"end to end {name}, {repeat} of {num_repeats}: {seconds:.4f} s")
        return times


def _run_two_turns(runtime: RayRuntime, settings: TransferBenchSettings, batch: int) -> _TimedTransfer:
    """Run one question through both agents; both turns are submitted at once, as in a run."""
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
    results = {}
    waiting = [written, reading]
    while waiting:
        for event in runtime.poll(_TIMEOUT_SECONDS):
            if isinstance(event, TurnFailed):
                raise event.error
            if isinstance(event, TurnLost):
                raise RunError(event.reason)
            if isinstance(event, TurnDone):
                results[event.handle.agent] = event.result
                waiting.remove(event.handle)
    return _TimedTransfer(
        finished_at=json.loads(results[WRITER].texts[0])["finished_at"],
        absorbed_at=json.loads(results[READER].texts[0])["absorbed_at"],
        result=results[READER],
        prompt_tokens=results[WRITER].prompt_tokens[0],
    )


def _prompt(text: str) -> Prompt:
    return Prompt(messages=({"role": "user", "content": text},))
