"""An outcome of a matrix without a measurement."""

from latentmas_ray.bench.matrix.figures import GroupFigures, LinkFigures, MatrixBench, link_figures
from latentmas_ray.bench.matrix.settings import MatrixSettings
from latentmas_ray.config import ActorLink

NUM_BYTES = 58_720_256
NODES = ("198.51.100.1", "198.51.100.2", "198.51.100.3")


def link(
    source: str, reader: str, gigabytes: float, limit: float | None = None, kind: ActorLink = "cross_node"
) -> LinkFigures:
    """A link with these GB/s, and those of its reference."""
    limits = [] if limit is None else [NUM_BYTES / limit / 1e9]
    seconds = [NUM_BYTES / gigabytes / 1e9]
    return link_figures(NUM_BYTES, seconds, limits, source=source, reader=reader, kind=kind, transport="tcp")


def matrix(*, slow: float = 1.0) -> MatrixBench:
    """Three nodes with two processes each; what the second sends is `slow` times as fast."""
    ends = tuple(f"{node} #{number}" for node in NODES for number in (1, 2))
    links = [link(f"{node} #1", f"{node} #2", 9.0, 10.0, "same_node") for node in NODES]
    for sender in NODES:
        share = slow if sender == NODES[1] else 1.0
        links += [
            link(f"{sender} #1", f"{reader} #1", 1.8 * share, 2.0 * share) for reader in NODES if reader != sender
        ]
    groups = [
        GroupFigures(name=name, num_moves=num, bytes_per_second=2e9, limit_bytes_per_second=2.5e9, share_of_limit=0.8)
        for name, num in (*((f"{node} #1", 2) for node in NODES), ("all to all", 6))
    ]
    return MatrixBench(
        settings=MatrixSettings(repeats=3),
        machine="a processor with a name, 2 cores, 3 nodes",
        num_bytes=NUM_BYTES,
        ends=ends,
        links=tuple(links),
        incast=tuple(groups[:-1]),
        all_to_all=groups[-1],
        lost={},
    )
