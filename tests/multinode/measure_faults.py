"""How long a run pauses when something dies, and whether load alone makes a node look dead. Needs root and `ip`.

    python -m tests.multinode.measure_faults pauses --fault actor,crash,silent --repeats 3
    python -m tests.multinode.measure_faults pauses --fault silent --checkout ../another
    python -m tests.multinode.measure_faults load --minutes 20

`pauses`: two nodes, every agent has a replica on each; a fault after some answers, and the longest time between two
answers before and after it. Ray never reports the node's death, so all that is seen is the run's own work. `load`:
processes that burn the cores of both nodes, a link of which a flood takes all, and stops of single processes (actors,
raylets, the driver) for some seconds, during one run after another; a node that is reported as lost is a false
alarm.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import count, pairwise
from pathlib import Path

from tests.multinode.cluster import Cluster
from tests.multinode.runs import COMMAND, FLAGS, Command, make_cluster, started_on, write_questions
from tests.ray.command_cases import ROOT, read_rows

HEAD, WORKER = range(2)
FAULTS: Mapping[str, Callable[[Cluster], object]] = {
    "actor": lambda cluster: cluster.kill_actor(WORKER),
    "crash": lambda cluster: cluster.crash(WORKER),
    "silent": lambda cluster: cluster.power_off(WORKER),
}
REPLICAS = ["--replicas", "2", "--placement", "pack"]
NEVER_DEAD = {"RAY_health_check_timeout_ms": "4000", "RAY_health_check_failure_threshold": "100000"}
RUN_SECONDS = 300.0  # after which a run counts as hanging
LOADED_RUN_SECONDS = 1800.0
_NUM_FIRST = 3
ALARMS = ("it has not answered for", "Ray ended there", "no other node answers")
_BURN = "while True: pass"
_RECEIVE = "import socket; s = socket.create_server(('', 9000)); c, _ = s.accept()\nwhile c.recv(1 << 20): pass"
_SEND = "import socket, sys; s = socket.create_connection((sys.argv[1], 9000))\nwhile True: s.sendall(bytes(1 << 20))"


def main(args: Sequence[str] | None = None) -> int:
    """Run the script; the exit code is 1 if answers are missing, a run hangs, or there was a false alarm."""
    given = _parser().parse_args(args)
    with tempfile.TemporaryDirectory(prefix="lmf-") as folder:
        return int(given.run(given, Path(folder)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    pauses = commands.add_parser("pauses")
    pauses.add_argument("--fault", default=",".join(FAULTS))
    pauses.add_argument("--repeats", type=int, default=1)
    pauses.add_argument("--questions", type=int, default=60)
    pauses.add_argument("--after", type=int, default=6, help="answers, until the fault")
    pauses.add_argument("--checkout", type=Path, default=ROOT, help="another one, with a .venv, for a comparison")
    pauses.add_argument("--transport", default="auto")
    pauses.set_defaults(run=_measure_pauses)
    load = commands.add_parser("load")
    load.add_argument("--minutes", type=float, default=20.0)
    load.add_argument("--seed", type=int, default=0)
    load.set_defaults(run=_load)
    return parser


def _measure_pauses(given: argparse.Namespace, folder: Path) -> bool:
    task, is_bad = write_questions(folder, given.questions), False
    for number, fault in enumerate(given.fault.split(",") * given.repeats):
        output = folder / f"run {number}"
        command = [given.checkout / ".venv/bin" / COMMAND.name, "eval", "--task", task, "--topology", "sequential"]
        flags = [*FLAGS, *REPLICAS, "--transport", given.transport, "--output", output]
        with make_cluster(2, 2, more={**NEVER_DEAD, "PYTHONPATH": str(given.checkout)}) as cluster:
            with started_on(cluster, HEAD, [*command, *flags, "--address", cluster.address]) as process:
                times, struck_at = _watch(process, output, given.after, lambda: FAULTS[fault](cluster))  # noqa: B023
                ended = process.is_over
            said = process.finish().stderr if ended else "it hangs"
        rows = len(read_rows(output))
        before = [later - earlier for earlier, later in pairwise(times) if later <= struck_at]
        after = [later - max(earlier, struck_at) for earlier, later in pairwise(times) if later > struck_at]
        figures = {
            "fault": fault,
            "checkout": given.checkout.name,
            "load": round(os.getloadavg()[0], 1),
            "answers": f"{rows} of {given.questions}",
            "longest_before": round(max(before, default=0.0), 1),
            "longest_pause": round(max(after, default=0.0), 1),
            "ended": ended,
            "said": [line for line in said.splitlines() if any(alarm in line for alarm in ALARMS)][:2],
        }
        print(json.dumps(figures), flush=True)
        is_bad |= rows != given.questions or not ended
    return is_bad


def _watch(process: Command, output: Path, after: int, strike: Callable[[], object]) -> tuple[list[float], float]:
    """Return when answers were seen, and when the fault was. Monotonic seconds."""
    times, struck_at, num_seen = [], float("inf"), 0
    deadline = time.monotonic() + RUN_SECONDS
    while not process.is_over and time.monotonic() < deadline:
        num_rows = len(read_rows(output))
        if num_rows > num_seen:
            times.append(time.monotonic())
            num_seen = num_rows
        if num_rows >= after and struck_at == float("inf"):
            strike()
            struck_at = time.monotonic()
        time.sleep(0.05)
    return times, struck_at


def _load(given: argparse.Namespace, folder: Path) -> bool:
    """Runs under load until the time is over; whether anything went wrong."""
    chance, task = random.Random(given.seed), write_questions(folder, 100)
    end = float("inf")  # the time runs from the first answers on, when the load begins
    num_alarms = num_stops = num_missing = 0
    with make_cluster(2, 2) as cluster, ExitStack() as stack:
        for number in count():
            output = folder / f"run {number}"
            command = [COMMAND, "eval", "--task", task, "--topology", "sequential", *FLAGS, *REPLICAS]
            with started_on(cluster, HEAD, [*command, "--address", cluster.address, "--output", output]) as process:
                deadline = time.monotonic() + LOADED_RUN_SECONDS
                while not process.is_over and time.monotonic() < deadline:
                    if len(read_rows(output)) < _NUM_FIRST or time.monotonic() > end:
                        time.sleep(0.5)
                        continue
                    if end == float("inf"):
                        end = time.monotonic() + 60 * given.minutes
                        _start_load(cluster, stack)
                    num_stops += _stop_one(cluster, chance)
                is_over = process.is_over
            said = process.finish().stderr if is_over else "it hangs"
            alarms = [line for line in said.splitlines() if any(alarm in line for alarm in ALARMS)]
            missing = 100 - len(read_rows(output))
            num_alarms, num_missing = num_alarms + len(alarms), num_missing + missing
            print(json.dumps({"run": number, "missing": missing, "is_over": is_over, "alarms": alarms}), flush=True)
            if time.monotonic() > end or not is_over:
                break
    figures = {"minutes": given.minutes, "runs": number + 1, "stops": num_stops, "alarms": num_alarms}
    print(json.dumps({**figures, "missing": num_missing}), flush=True)
    return bool(num_alarms or num_missing)


def _start_load(cluster: Cluster, stack: ExitStack) -> None:
    """Burn the cores of both nodes, and fill the link to one of them, until the stack ends."""
    for node in (HEAD, WORKER):
        for _ in range(os.cpu_count() or 1):
            stack.enter_context(started_on(cluster, node, [sys.executable, "-c", _BURN]))
    cluster.slow_down(WORKER, 100)
    stack.enter_context(started_on(cluster, WORKER, [sys.executable, "-c", _RECEIVE]))
    time.sleep(5.0)
    stack.enter_context(started_on(cluster, HEAD, [sys.executable, "-c", _SEND, cluster.host(WORKER)]))


def _stop_one(cluster: Cluster, chance: random.Random) -> int:
    """Stop an actor, a raylet or a driver for some seconds, then leave all alone for as long; return how many."""
    names = ("ray::", "raylet/raylet", "latentmas")
    found = [
        (machine, pid)
        for machine in (cluster.machines[node] for node in (HEAD, WORKER))
        for pid, name in sorted(machine.processes().items())
        if any(part in name for part in names)
    ]
    if not found:
        time.sleep(0.5)
        return 0
    (machine, stopped), seconds = chance.choice(found), chance.uniform(0.5, 8.0)
    machine.signal([stopped], signal.SIGSTOP)
    time.sleep(seconds)
    machine.signal([stopped], signal.SIGCONT)
    time.sleep(seconds / 2)
    return 1


if __name__ == "__main__":
    sys.exit(main())
