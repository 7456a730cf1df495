#!/usr/bin/env python3
"""A Ray cluster of several nodes on this one machine, for trying what happens between nodes:

    sudo .venv/bin/python cluster/local_cluster.py --nodes 3
    sudo .venv/bin/python cluster/local_cluster.py --nodes 2 -- latentmas ask "What is 6 times 7?" --trace

Each node has a network, processes and shared memory of its own (Linux namespaces; the tests with several nodes use the
same). With a command it runs that on the head, with RAY_ADDRESS set, and ends with its exit code. Without one it says
how to run commands there, and stays until Ctrl-C. Nothing of it can be reached from outside, and whatever ends this
process, a kill too, ends the cluster with it.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.multinode.cluster import BIN, Cluster  # noqa: E402  found once the project's folder is on the path
from tests.multinode.machines import kill_session  # noqa: E402

MAX_NODES = 16


def main(args: Sequence[str] | None = None) -> int:
    """Run the script; the exit code is that of the command, 0 after Ctrl-C without one, 1 if Ray does not start."""
    given = _parser().parse_args(args)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    environment = _environment()
    has_dashboard = find_spec("aiohttp_cors") is not None  # of ray[default]
    try:
        with Cluster(
            [given.num_cpus] * given.nodes,
            environment=environment,
            store_bytes=given.object_store_mb * 10**6,
            dashboard=has_dashboard,
        ) as cluster:
            if given.command:
                return _run(cluster, given.command)
            _explain(cluster, has_dashboard)
            signal.pause()
    except KeyboardInterrupt:
        print("the cluster is gone", file=sys.stderr)
        return 130 if given.command else 0
    except RuntimeError as error:
        print(f"local_cluster: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=_number(1, MAX_NODES), default=2, metavar="N", help="(default: 2)")
    parser.add_argument(
        "--num-cpus", type=_number(0, 1024), default=2, metavar="N", help="cores that each node gives away (default: 2)"
    )
    parser.add_argument(
        "--object-store-mb",
        type=_number(80, 10**6),
        default=300,
        metavar="MB",
        help="object store of each node (default: 300)",
    )
    parser.add_argument("command", nargs="*", help="what to run on the head, after --")
    return parser


def _number(least: int, most: int):  # type: ignore[no-untyped-def]
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"got {text!r}; it must be a whole number from {least} to {most}")
        return int(text)

    return number


def _environment() -> dict[str, str]:
    """This process's own, in which `python` and `latentmas` are those of its virtual environment."""
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    modules = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PATH": path, "PYTHONPATH": modules, "RAY_USAGE_STATS_ENABLED": "0"}


def _on_head(cluster: Cluster) -> dict[str, str]:
    where = {"RAY_ADDRESS": cluster.address, "RAY_API_SERVER_ADDRESS": cluster.dashboard_url}
    return {**cluster.environment, **where}


def _run(cluster: Cluster, command: Sequence[str]) -> int:
    """A command on the head with this terminal's input and output."""
    process = subprocess.Popen(cluster.machines[0].inside(command), env=_on_head(cluster), start_new_session=True)
    try:
        return process.wait()
    finally:
        kill_session(process)


def _explain(cluster: Cluster, has_dashboard: bool) -> None:
    variables = {name: _on_head(cluster)[name] for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "PATH")}
    if has_dashboard:
        variables["RAY_API_SERVER_ADDRESS"] = cluster.dashboard_url
    enter = " ".join(cluster.machines[0].inside(["env", *(f"{name}='{value}'" for name, value in variables.items())]))
    lines = [
        f"{len(cluster.machines)} nodes are up; address {cluster.address}"
        + (f", dashboard {cluster.dashboard_url}" if has_dashboard else ", no dashboard: it needs ray[default]"),
        "in another terminal, a shell on the head, in which `latentmas` joins the cluster by itself:",
        f"  sudo {enter} {shutil.which('bash') or 'sh'}",
        "Ctrl-C ends the cluster",
    ]
    print("\n".join(lines), flush=True)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
