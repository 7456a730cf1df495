"""`python -m benchmarks serve-faults`: a part of an endpoint dies while it streams.

The endpoint is the application of Ray Serve on a cluster of three nodes on this machine. A client reads streams; what
fails before its stream has begun it asks again, as the package `openai` does. Every answer is compared with the one of
an undisturbed process.
"""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import psutil
import ray
from ray import serve
from ray.cluster_utils import Cluster

from benchmarks.serving.ray_serve import processes_of, start_serve
from latentmas_ray import LatentMAS
from latentmas_ray.bench.serve.reply import ChatClient, ChatQuestion, ClientReply
from latentmas_ray.serve.ray_app import app
from latentmas_ray.tasks import load_questions

_AGENTS = ("AgentActor", "TextActor")
FAULTS = ("actor", "node", "ingress")
_DTYPE: Literal["float32"] = "float32"  # in which an answer does not depend on the other questions of its batch
_WARM_UP = 10  # questions of each client: the caches of actors have their size then
_RETRIES = 20  # of a request whose stream had not begun; a team that is replaced loads its models meanwhile
_PAUSE_SECONDS = 2.0
_TIMEOUT_SECONDS = 600.0
_CORES = 4.0  # that each node pretends to have
_STORE_BYTES = 200 * 2**20
_NUM_NODES = 3
_SETTLE_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class FaultSettings:
    """What is asked, and after how many answers what dies."""

    fault: str
    requests: int
    clients: int
    model: str
    topology: str
    latent_steps: int
    max_new_tokens: int
    after: int  # answers


@dataclass(frozen=True, kw_only=True)
class FaultOutcome:
    """What came of it. A request that was asked again counts once, by how it ended."""

    fault: str
    num_requests: int
    num_right: int
    num_wrong: int
    failed: dict[str, int]  # by kind, streams that had begun
    never_begun: dict[str, int]  # by kind, requests that were given up without a token
    num_asked_again: int
    longest_pause_seconds: float  # between two answers, after the fault
    actors: tuple[int, int]  # before, and after
    actor_bytes: tuple[int, int]  # resident memory that is theirs alone
    store_bytes: tuple[int, int]  # in use, of the object stores


class _SeenReplies:
    """What clients have seen so far."""

    def __init__(self) -> None:
        self.replies: list[ClientReply] = []
        self.num_again = 0

    @property
    def num_answered(self) -> int:
        return sum(reply.is_answered for reply in self.replies)


def measure_fault(settings: FaultSettings) -> FaultOutcome:
    """Start a cluster and the endpoint, ask, and kill. Ends what it started."""
    loaded = load_questions("chain", min(settings.requests, 200))
    texts = [loaded[number % len(loaded)].question for number in range(settings.requests)]
    expected = _asked_alone(settings, set(texts))
    cluster = _make_cluster()
    try:
        url = _deploy(settings)
        asyncio.run(_ask(url, texts[: _WARM_UP * settings.clients], settings, lambda: None))  # everything is warm
        before = _level()
        watched, killed_at = asyncio.run(_disturbed(url, texts, settings, cluster))
        _wait_for(lambda: _level()[0] >= before[0])
        after = _level()
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
    return _outcome(settings, watched, expected, killed_at, before, after)


def _outcome(
    settings: FaultSettings,
    watched: _SeenReplies,
    expected: dict[str, str],
    killed_at: float,
    before: tuple[int, int, int],
    after: tuple[int, int, int],
) -> FaultOutcome:
    answered = [reply for reply in watched.replies if reply.is_answered]
    failed = [reply for reply in watched.replies if not reply.is_answered]
    wrong = [reply for reply in answered if reply.text != expected[reply.question.text]]
    times = [killed_at, *sorted(reply.finished for reply in answered if reply.finished > killed_at)]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    return FaultOutcome(
        fault=settings.fault,
        num_requests=len(watched.replies),
        num_right=len(answered) - len(wrong),
        num_wrong=len(wrong),
        failed=dict(Counter(reply.outcome for reply in failed if reply.first_token is not None)),
        never_begun=dict(Counter(reply.outcome for reply in failed if reply.first_token is None)),
        num_asked_again=watched.num_again,
        longest_pause_seconds=max(pauses, default=0.0),
        actors=(before[0], after[0]),
        actor_bytes=(before[1], after[1]),
        store_bytes=(before[2], after[2]),
    )


def _make_cluster() -> Cluster:
    """A head for the ingress and Serve's own actors, and nodes for agents."""
    cluster = Cluster()
    for number in range(_NUM_NODES):
        cores = 0 if number == 0 else _CORES
        resources = {"ingress": 1.0} if number == 0 else {}
        cluster.add_node(num_cpus=cores, resources=resources, object_store_memory=_STORE_BYTES, include_dashboard=False)
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    cluster.wait_for_nodes()
    return cluster


def _deploy(settings: FaultSettings) -> str:
    root = start_serve(location="HeadOnly")
    fields = {name: getattr(settings, name) for name in ("model", "topology", "latent_steps", "max_new_tokens")}
    # An agent has one actor, and all of them together leave room for a replacement on the other node.
    application = app({**fields, "dtype": _DTYPE, "temperature": 0, "placement": "spread"})
    serve.run(application, name="team", route_prefix="/")
    return f"{root}/v1"


async def _disturbed(
    url: str, texts: list[str], settings: FaultSettings, cluster: Cluster
) -> tuple[_SeenReplies, float]:
    watched = _SeenReplies()
    killed: list[float] = []

    def kill_once() -> None:
        if not killed and watched.num_answered >= settings.after:
            killed.append(time.monotonic())
            _KILLS[settings.fault](cluster)

    await _ask(url, texts, settings, kill_once, watched)
    return watched, killed[0]


async def _ask(
    url: str,
    texts: list[str],
    settings: FaultSettings,
    at_each: Callable[[], None],
    watched: _SeenReplies | None = None,
) -> None:
    """Ask all texts; `at_each` is called after each answer, in a thread."""
    waiting = enumerate(texts)
    watched = watched or _SeenReplies()
    async with ChatClient(url, max_tokens=settings.max_new_tokens, timeout=_TIMEOUT_SECONDS) as client:

        async def ask_on() -> None:
            for number, text in waiting:
                question = ChatQuestion(model=f"latentmas/{settings.topology}", key=f"q{number}", text=text)
                reply = await client.ask(question, time.monotonic())
                for _ in range(_RETRIES):
                    if reply.is_answered or reply.first_token is not None:
                        break
                    watched.num_again += 1
                    await asyncio.sleep(max(reply.retry_after, _PAUSE_SECONDS))
                    reply = await client.ask(question, time.monotonic())
                watched.replies.append(reply)
                await asyncio.to_thread(at_each)

        await asyncio.gather(*(ask_on() for _ in range(settings.clients)))


def _asked_alone(settings: FaultSettings, texts: set[str]) -> dict[str, str]:
    fields: dict[str, Any] = {"latent_steps": settings.latent_steps, "max_new_tokens": settings.max_new_tokens}
    with LatentMAS(
        settings.model, topology=settings.topology, temperature=0, runtime="local", dtype=_DTYPE, **fields
    ) as mas:
        return {text: mas.ask(text).answer for text in sorted(texts)}


def _level() -> tuple[int, int, int]:
    """Return how many actors agents have, the resident bytes that are theirs alone, and the bytes in use of the object
    stores."""
    agents = processes_of(*_AGENTS)
    resident = 0
    for one in agents:
        with suppress(psutil.Error):
            memory = one.memory_info()
            resident += memory.rss - memory.shared  # object stores count by themselves
    total, free = ray.cluster_resources(), ray.available_resources()
    used = total.get("object_store_memory", 0.0) - free.get("object_store_memory", 0.0)
    return len(agents), resident, int(used)


def _kill_actor(_: Cluster) -> None:
    os.kill(processes_of(*_AGENTS)[0].pid, signal.SIGKILL)


def _kill_ingress(_: Cluster) -> None:
    os.kill(processes_of("ServeReplica")[0].pid, signal.SIGKILL)


def _kill_node(cluster: Cluster) -> None:
    cluster.remove_node(sorted(cluster.worker_nodes, key=lambda node: node.unique_id)[0], allow_graceful=False)


_KILLS: dict[str, Callable[[Cluster], None]] = {"actor": _kill_actor, "node": _kill_node, "ingress": _kill_ingress}


def _wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + _SETTLE_SECONDS
    while not holds() and time.monotonic() < end:
        time.sleep(0.5)


def show(outcome: FaultOutcome, *, as_json: bool) -> None:
    """Print an outcome."""
    if as_json:
        print(json.dumps(asdict(outcome)))
        return
    failed = sum(outcome.failed.values()) + sum(outcome.never_begun.values())
    print(
        f"{outcome.fault}: {outcome.num_right} of {outcome.num_requests} right, {outcome.num_wrong} wrong, "
        f"{failed} failed {outcome.failed | outcome.never_begun}, {outcome.num_asked_again} asked again; "
        f"longest pause {outcome.longest_pause_seconds:.1f} s; actors {outcome.actors[0]} → {outcome.actors[1]}, "
        f"{outcome.actor_bytes[0] / 1e6:.0f} → {outcome.actor_bytes[1] / 1e6:.0f} MB"
    )
