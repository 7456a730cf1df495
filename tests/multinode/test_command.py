"""The command line on a cluster of several nodes: where agents stand, the answers of one process, and who may join."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.multinode.cluster import Cluster
from tests.multinode.runs import (
    ONE_THREAD,
    Command,
    evaluation,
    local_rows,
    make_cluster,
    started_on,
    wait_while,
    write_questions,
)
from tests.ray.actor_cases import timeless
from tests.ray.command_cases import COMMAND, PAIR, QUESTION, environment, read_rows

NUM_QUESTIONS = 4
NODES = HEAD, WORKER, IDLE, OUTSIDER = range(4)
PORT_OF_NOBODY = 6378
TRANSFERS = [
    ("planner", "critic"),
    ("planner", "refiner"),
    ("critic", "refiner"),
    ("planner", "judger"),
    ("critic", "judger"),
    ("refiner", "judger"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with cores for all agents, one that has none, and a machine that is no part of the cluster."""
    with make_cluster(4, 4, 0, None) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few questions."""
    return write_questions(tmp_path_factory.mktemp("task"), NUM_QUESTIONS)


@pytest.mark.parametrize(
    ("flags", "transports"),
    [
        pytest.param([], {"same_node": "shared_memory"}, id="auto"),
        pytest.param(
            ["--transport", "same_node=shared_memory,cross_node=object_store"],
            {"same_node": "shared_memory", "cross_node": "object_store"},
            id="by hand",
            marks=pytest.mark.slow,  # `tests/unit/transport/test_per_link.py` has a reader on each link
        ),
    ],
)
def test_agents_on_several_nodes_answer_as_in_one_process(
    cluster: Cluster, task: Path, tmp_path: Path, flags: list[str], transports: dict[str, str]
) -> None:
    """From a node that runs no actor; and the cluster keeps running afterwards."""
    command = evaluation(task, "sequential")
    most: Counter[int] = Counter()

    def look() -> None:
        most.update({node: max(0, cluster.num_actors(node) - most[node]) for node in NODES})

    where = ["--address", cluster.address, "--placement", "spread", "--output", str(tmp_path / "run"), *flags]
    with started_on(cluster, IDLE, [*command, *where]) as process:
        wait_while(lambda: not process.is_over, look)
        done = process.finish()
    assert done.returncode == 0, done.stderr
    assert most == {HEAD: 2, WORKER: 2, IDLE: 0, OUTSIDER: 0}
    rows = read_rows(tmp_path / "run")
    assert len(rows) == NUM_QUESTIONS
    for row in rows:
        assert [(transfer["source"], transfer["reader"]) for transfer in row["transfers"]] == TRANSFERS
        ways = {(transfer["link"], transfer["transport"]) for transfer in row["transfers"]}
        assert {way for way in ways if way[0] in transports} <= set(transports.items())
        assert {name for link, name in ways if link == "cross_node"} <= {"tcp", "object_store"}
        sizes = [(t["num_bytes"], row["agent_memory_bytes"][t["source"]]) for t in row["transfers"]]
        assert [pair for pair in sizes if not pair[0] == pair[1] > 0] == []
    assert [timeless(row) for row in rows] == local_rows(command, tmp_path / "local")
    # Two agents on each node: every segment is read on both, and comes to the other node once at the most.
    moved = {
        link: sum(t["moved_bytes"] for row in rows for t in row["transfers"] if t["link"] == link)
        for link in ("same_node", "cross_node")
    }
    assert {transfer["link"] for row in rows for transfer in row["transfers"]} == {"same_node", "cross_node"}
    if not flags:  # measured: the preferred one, or the other with the figures that made it better
        (used,) = {t["transport"] for row in rows for t in row["transfers"] if t["link"] == "cross_node"}
        assert re.search(rf"between nodes {used}, the best( measured here)?: 8.39 MB in .* by ", done.stderr), (
            done.stderr
        )
    written = sum(row["memory_bytes"] for row in rows)
    assert 0 < moved["cross_node"] <= written
    assert moved["same_node"] <= written
    wait_while(lambda: any(cluster.num_actors(node) for node in NODES))


@pytest.fixture(scope="module")
def command(task: Path) -> list[str]:
    """An evaluation by two agents."""
    pair = task.with_name("pair.yaml")
    pair.write_text(PAIR)
    return evaluation(task, str(pair))


@pytest.fixture(scope="module")
def rows_of_one_process(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return local_rows(command, tmp_path_factory.mktemp("local"))


@pytest.mark.slow  # on one node: `tests/ray/test_placement.py`
@pytest.mark.parametrize(
    ("placement", "actors", "links"),
    [
        ("pack", [0, 2], {"same_node"}),
        ("colocate", [0, 1], {"same_process"}),
    ],
)
def test_agents_stand_together_where_they_are_put(
    cluster: Cluster,
    command: list[str],
    rows_of_one_process: list[dict[str, Any]],
    tmp_path: Path,
    placement: str,
    actors: list[int],
    links: set[str],
) -> None:
    """Counted by the kernel while the run lasts: actors on the node with fewer, and on that with more."""
    most = [0, 0]

    def look() -> None:
        most[:] = [max(seen, cluster.num_actors(node)) for node, seen in zip((HEAD, WORKER), most, strict=True)]

    where = ["--address", cluster.address, "--output", str(tmp_path), "--placement", placement]
    with started_on(cluster, HEAD, [*command, *where]) as process:
        wait_while(lambda: not process.is_over, look)
        done = process.finish()
    assert done.returncode == 0, done.stderr
    assert sorted(most) == actors
    rows = read_rows(tmp_path)
    assert {transfer["link"] for row in rows for transfer in row["transfers"]} == links
    assert [timeless(row) for row in rows] == rows_of_one_process
    wait_while(lambda: any(cluster.num_actors(node) for node in NODES))


def test_the_plan_of_a_cluster_that_runs(cluster: Cluster) -> None:
    """It joins the cluster to look at it, and starts nothing there."""
    plan = [str(COMMAND), "plan", "--address", cluster.address, "--placement", "spread", "--json"]
    with started_on(cluster, HEAD, plan) as process:
        done = process.finish()
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sorted(node["num_cpus"] for node in told["nodes"]) == [0.0, 4.0, 4.0]
    assert all(re.fullmatch("[0-9a-f]{56}", node["name"]) for node in told["nodes"])
    used = {shard["node"] for shard in told["shards"]}
    assert [told["nodes"][number]["num_cpus"] for number in used] == [4.0, 4.0]
    assert not any(cluster.num_actors(node) for node in NODES)


@pytest.mark.slow
def test_the_link_between_two_nodes_is_measured_beside_plain_tcp(cluster: Cluster) -> None:
    """A link more than on one machine, and two clocks."""
    flags = ["--model", "tiny", "--tokens", "1,200", "--repeats", "2", "--no-end-to-end", "--json"]
    command = [str(COMMAND), "bench", "transfer", *flags, "--transports", "object_store", "--address", cluster.address]
    with started_on(cluster, HEAD, command) as process:
        done = process.finish()
    assert done.returncode == 0, done.stderr
    ways = {way["link"]: way for way in json.loads(done.stdout)["ways"]}
    far = ways["cross_node"]
    assert far["limit"] == "TCP"
    assert 0 < far["clock_error_seconds"] < 0.1
    for size in far["sizes"]:
        assert 0 < size["move"]["seconds"] <= size["hand_over"]["seconds"] < 10
    assert ways["same_node"]["clock_error_seconds"] == 0


@pytest.mark.slow  # pairs, the rule and the tables: `tests/unit/bench/test_matrix.py`
def test_the_slow_direction_of_one_link_is_named(cluster: Cluster) -> None:
    """What the second node sends passes a bucket that lets 80 Mbit/s through."""
    worker = cluster.machines[WORKER]
    bucket = [
        "tc",
        "qdisc",
        "replace",
        "dev",
        "eth0",
        "root",
        "tbf",
        "rate",
        "80mbit",
        "burst",
        "64kb",
        "latency",
        "1s",
    ]
    slowed = worker.run(bucket)
    assert slowed.returncode == 0, slowed.stderr
    flags = ["--pairs", "nodes", "--concurrent", "2", "--tokens", "32", "--repeats", "1", "--json"]
    command = [str(COMMAND), "bench", "transfer", *flags, "--address", cluster.address]
    try:
        with started_on(cluster, HEAD, command) as process:
            done = process.finish()
    finally:
        worker.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (len(told["ends"]), len(told["links"]), told["lost"]) == (3, 6, {})
    assert not any(link["failed"] for link in told["links"])
    head, slow, idle = (f"{cluster.address.rpartition('.')[0]}.{number}" for number in (1, 2, 3))
    slowest = told["slow"][:2]  # others only seem slow where the machine is busy
    assert {(link["source"], link["reader"], link["what"]) for link in slowest} == {
        (slow, head, "limit"),
        (slow, idle, "limit"),
    }
    assert all(link["share_of_usual"] < 0.3 for link in slowest)
    assert {(one["name"], one["num_moves"]) for one in told["incast"]} == {(head, 2), (slow, 2), (idle, 2)}
    assert told["all_to_all"]["num_moves"] == 6
    assert all(one["bytes_per_second"] > 0 for one in (*told["incast"], told["all_to_all"]))


def _refusals(cluster: Cluster, homeless: Path) -> dict[str, tuple[int, str, dict[str, str]]]:
    """Where a command runs, the address it is given, and what of the environment differs."""
    token = {"RAY_AUTH_MODE": "token"}
    host = cluster.address.partition(":")[0]
    right = token | {"RAY_AUTH_TOKEN": cluster.token}
    return {
        "wrong token": (WORKER, cluster.address, token | {"RAY_AUTH_TOKEN": "not-that-of-the-cluster"}),
        "missing token": (HEAD, cluster.address, token | {"HOME": str(homeless)}),
        "no authentication": (HEAD, cluster.address, {"RAY_AUTH_MODE": "disabled"}),
        "wrong port": (WORKER, f"{host}:{PORT_OF_NOBODY}", right),
        "wrong host": (WORKER, f"{host}99:6379", right),
        "no node": (OUTSIDER, cluster.address, right),
    }


TOKEN = "RAY_AUTH_MODE and RAY_AUTH_TOKEN must be those of the cluster"
REASONS = {
    "wrong token": TOKEN,
    "missing token": TOKEN,
    "no authentication": TOKEN,
    "wrong port": "a Ray cluster must answer there: Connection refused",
    "wrong host": "a Ray cluster must answer there: No route to host",
    "no node": "this machine must be one of its nodes",
}


@pytest.fixture(scope="module", autouse=True)
def _knock_early(request: pytest.FixtureRequest) -> None:
    """Some commands that cannot join take a minute to give up, in which they only wait. So where a test asks for them
    they start with the first one."""
    if any("knocking" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("knocking")


@pytest.fixture(scope="module")
def knocking(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[str, Command]]]:
    """The commands that cannot join, each with its address."""
    cases = _refusals(cluster, tmp_path_factory.mktemp("homeless"))
    hidden = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    bare = {name: value for name, value in environment(ONE_THREAD).items() if name not in hidden}
    ask = [str(COMMAND), "ask", QUESTION, "--address"]
    with ExitStack() as stack:
        yield {
            name: (address, stack.enter_context(started_on(cluster, node, [*ask, address], bare | more)))
            for name, (node, address, more) in cases.items()
        }


@pytest.mark.slow  # addresses where nothing answers: `tests/ray/test_command_address.py`
@pytest.mark.parametrize("case", REASONS)
def test_who_cannot_join_is_told_in_one_line(knocking: dict[str, tuple[str, Command]], case: str) -> None:
    address, process = knocking[case]
    done = process.finish()
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: --address: got '{address}'; ")
    assert REASONS[case] in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
