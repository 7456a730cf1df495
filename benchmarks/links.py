"""Both kinds of link of two nodes in one measurement: what moves, by which transport, next to its own limit.

Two pretended machines on this one (Linux namespaces, virtual links; it takes root). First the hand-overs of the
transfer benchmark over both links, then a run of four agents, two on each node, whose accounts say which transport
moved each segment. Needs a quiet machine: with two cores both nodes and the reference share them.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from latentmas_ray.errors import RunError
from tests.multinode.cluster import Cluster

# Aims: what is avoidable of a hand-over within a node, and how much of plain TCP a move between nodes reaches.
SAME_NODE_AIM, CROSS_NODE_AIM = 0.60, 0.85
_TRANSPORT = {"same_node": "shared_memory", "cross_node": "tcp"}
_STORE_BYTES = 300 * 2**20
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "LATENTMAS_TORCH_THREADS": "1"}
_RUN = "--task chain --model tiny --limit 4 --batch-size 2 --latent-steps 4 --max-new-tokens 8 --placement spread"
_LIMIT_SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class LinksBench:
    """The result: shares of the limits, and how many transfers of the run went by which way."""

    num_bytes: int
    same_node_share: float  # two memcpys / hand-over by shared memory
    same_node_seconds: float
    cross_node_share: float  # plain TCP / move by tcp
    cross_node_seconds: float
    cross_node_hand_over_share: float  # (two memcpys + plain TCP) / hand-over
    accounts: dict[str, int]  # "link transport": transfers


def measure_links(tokens: int, repeats: int, *, as_json: bool) -> None:
    """Print the figures. Raises RunError if a command fails, or if a transfer of the run went another way."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, **_ONE_THREAD, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[1])}
    with (
        Cluster((2, 2), environment=environment, store_bytes=_STORE_BYTES) as cluster,
        tempfile.TemporaryDirectory() as at,
    ):
        flags = ["--tokens", str(tokens), "--repeats", str(repeats), "--transports", "shared_memory,tcp"]
        figures = json.loads(_output(cluster, ["bench", "transfer", *flags, "--no-end-to-end", "--json"]))
        transport = ",".join(f"{link}={name}" for link, name in _TRANSPORT.items())
        _output(cluster, ["eval", *_RUN.split(), "--transport", transport, "--output", f"{at}/run"])
        accounts = read_accounts(Path(at, "run", "results.jsonl"))
    check_accounts(accounts)
    found = links_bench(figures, accounts)
    print(json.dumps(asdict(found), indent=2) if as_json else describe(found))


def links_bench(figures: dict[str, object], accounts: dict[str, int]) -> LinksBench:
    """Return the shares from the figures of `latentmas bench transfer --json`."""
    ways = {(way["link"], way["transport"]): way["sizes"][-1] for way in figures["ways"]}  # type: ignore[attr-defined]
    near, far = (ways[way] for way in _TRANSPORT.items())
    return LinksBench(
        num_bytes=near["num_bytes"],
        same_node_share=near["hand_over"]["share_of_limit"],
        same_node_seconds=near["hand_over"]["seconds"],
        cross_node_share=far["move"]["share_of_limit"],
        cross_node_seconds=far["move"]["seconds"],
        cross_node_hand_over_share=far["hand_over"]["share_of_limit"],
        accounts=accounts,
    )


def read_accounts(results: Path) -> dict[str, int]:
    """Return how many transfers of a run went over each link by each transport."""
    accounts: dict[str, int] = {}
    for row in map(json.loads, results.read_text().splitlines()):
        for transfer in row["transfers"]:
            way = f"{transfer['link']} {transfer['transport']}"
            accounts[way] = accounts.get(way, 0) + 1
    return accounts


def check_accounts(accounts: dict[str, int]) -> None:
    """Raise RunError unless both links were used, each by its own transport only."""
    if accounts.keys() != {f"{link} {name}" for link, name in _TRANSPORT.items()}:
        raise RunError(f"the run's transfers went by {accounts}, and should have gone by {_TRANSPORT}")


def describe(found: LinksBench) -> str:
    """Return the figures as lines, with their aims."""
    ways = ", ".join(f"{count} {way}" for way, count in found.accounts.items())
    return "\n".join(
        [
            f"{found.num_bytes / 1e6:.0f} MB",
            f"same node, shared_memory: hand-over {found.same_node_seconds * 1e3:.1f} ms, two memcpys are "
            f"{found.same_node_share:.2f} of it (aim {SAME_NODE_AIM:.2f})",
            f"cross node, tcp: move {found.cross_node_seconds * 1e3:.1f} ms, plain TCP is {found.cross_node_share:.2f} "
            f"of it (aim {CROSS_NODE_AIM:.2f}); hand-over {found.cross_node_hand_over_share:.2f} of copies and TCP",
            f"transfers of one run with two agents on each node: {ways}",
        ]
    )


def _output(cluster: Cluster, arguments: Sequence[str]) -> str:
    """Run `latentmas` on the head and return what it prints."""
    command = [sys.executable, "-m", "latentmas_ray", *arguments, "--address", cluster.address]
    done = cluster.machines[0].run(command, environment=cluster.environment, timeout_seconds=_LIMIT_SECONDS)
    if done.returncode:
        raise RunError(f"latentmas {arguments[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout
