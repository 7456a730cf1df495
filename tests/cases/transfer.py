"""An outcome of the transfer benchmark without a measurement."""

from latentmas_ray.bench.end_to_end import EndToEnd, EndToEndTimes
from latentmas_ray.bench.timings import Received, TransferSample, size_figures
from latentmas_ray.bench.transfer import TransferBench, TransportFigures
from latentmas_ray.bench.transfer_settings import TransferBenchSettings
from latentmas_ray.engine.turn import Link

BYTES_PER_TOKEN = 114_688
TOKENS = (1, 64, 1024, 2048)


def hand_over(
    scale: float = 1.0, *, offset: float = 0.0, holds_bytes: bool = True, limit: float = 0.5
) -> TransferSample:
    """Copied after 1, packed after 2, there after 4, unpacked after 8, written after 16, all times `scale`."""
    begun = 1000.0
    received = Received(*(begun + time * scale + offset for time in (4.0, 8.0, 16.0)), holds_bytes)
    return TransferSample.of((begun, begun + scale, begun + 2 * scale), received, offset, limit=limit, copies=2 * limit)


def outcome() -> TransferBench:
    """All three links, several sizes, and the agents."""
    links: tuple[tuple[Link, str, float], ...] = (
        ("same_process", "loopback", 1e-7),
        ("same_node", "object_store", 1e-2),
        ("cross_node", "object_store", 0.123456),
    )
    ways = tuple(
        TransportFigures(
            link=link,
            transport=transport,
            limit="TCP" if link == "cross_node" else "memcpy",
            clock_error_seconds=8.5e-5 if link == "cross_node" else 0.0,
            sizes=tuple(
                size_figures(
                    tokens,
                    tokens * BYTES_PER_TOKEN,
                    [hand_over(scale * tokens**0.5 * factor, limit=1e-5 * tokens) for factor in (1.0, 1.1, 0.9)],
                    is_remote=link == "cross_node",
                )
                for tokens in TOKENS
            ),
        )
        for link, transport, scale in links
    )
    return TransferBench(
        settings=TransferBenchSettings(repeats=3),
        machine="a machine of which the name is long enough to need a second line, 2 cores, 1 torch thread",
        bytes_per_token=BYTES_PER_TOKEN,
        ways=ways,
        end_to_end=EndToEnd(
            prompt_tokens=1019,
            latent_steps=40,
            num_bytes=121_454_592,
            transport="object_store",
            link="same_node",
            overlap=EndToEndTimes(seconds=0.0123, exposed_seconds=0.0119),
            no_overlap=EndToEndTimes(seconds=0.123, exposed_seconds=0.045),
            ratio=10.0,
        ),
    )
