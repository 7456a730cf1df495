"""An outcome of the benchmark of the runtime without a measurement."""

from benchmarks.scaling.figures import TEXT_WAY, HandOvers, Spread, driver_time, throughput_figures
from benchmarks.scaling.measure import ScalingBench
from benchmarks.scaling.settings import ScalingBenchSettings
from benchmarks.scaling.timed_runtime import CALLS


def spread(seconds: float) -> Spread:
    """Return a spread whose p99 is ten times its median."""
    return Spread(count=100, p50=seconds, p99=10 * seconds)


def hand_overs(actors: int, load: str) -> HandOvers:
    """The more actors, the longer everything takes."""
    has_latencies = load != "flood"
    return HandOvers(
        load=load,
        actors=actors,
        replicas=actors // 4,
        turns=1000,
        seconds=4.0,
        turns_per_second=250.0,
        memory=spread(1e-4 * actors) if has_latencies else None,
        text=spread(0.0123456) if has_latencies else None,
        text_way=dict.fromkeys(TEXT_WAY, spread(1.23456e-4)) if has_latencies else {},
        busy_readers=0.0625,
        driver=driver_time(
            [0.0123] * 1000, dict.fromkeys(CALLS, 0.123), num_turns=1000, thread=1.0, process=2.0, seconds=4.0
        ),
    )


def outcome() -> ScalingBench:
    """Up to 64 replicas and actors."""
    seconds = {replicas: [5.0 + 0.01 * replicas] * 3 for replicas in (1, 2, 4, 8, 16, 32, 64)}
    return ScalingBench(
        settings=ScalingBenchSettings(replicas=tuple(seconds), turn_seconds=0.5),
        machine="A processor with a long name @ 2.60GHz, 64 cores",
        load_average=0.123,
        num_nodes=1,
        throughput=throughput_figures(seconds, agents=1, batches=10, turn_seconds=0.5),
        hand_overs=tuple(hand_overs(actors, load) for actors in (4, 16, 64) for load in ("alone", "busy", "flood")),
    )
