"""`python -m benchmarks serve-replicas`: two teams of an endpoint of Ray Serve, and a second one that comes and goes.

First the application has two replicas, each an ingress with a whole team, and is asked. Then it has one, and Serve's
autoscaler may add another: it is asked by many clients until there are two, then by one until there is one again. Every
answer is compared with the one of an undisturbed process, and no request is asked again.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import psutil
import ray
from ray import serve

from benchmarks.serving.ray_serve import processes_of, start_serve
from latentmas_ray import LatentMAS
from latentmas_ray.bench.serve.load import closed_loop
from latentmas_ray.bench.serve.reply import ChatClient, ChatQuestion, ClientReply
from latentmas_ray.serve.ray_app import DEPLOYMENT, team_deployment
from latentmas_ray.tasks import load_questions

_APPLICATION: Final = "team"
_DTYPE: Final[Literal["float32"]] = "float32"  # in which an answer does not depend on the other questions of its batch
_CORES: Final = 4  # that the node pretends to have; a team whose agents share an actor takes one
_STORE_BYTES: Final = 200 * 2**20
_MOST_SECONDS: Final = 600.0  # for the autoscaler to add a team, or to end one
_TIMEOUT_SECONDS: Final = 600.0
_FEWEST: Final = 8  # questions between two looks at how many teams there are
_SCALING: Final = {
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 4,
    "upscale_delay_s": 2,
    "downscale_delay_s": 5,
    "look_back_period_s": 4,
    "metrics_interval_s": 1,
}


@dataclass(frozen=True, kw_only=True)
class ReplicasSettings:
    """What is asked, and by how many clients."""

    requests: int
    clients: int
    model: str
    topology: str
    latent_steps: int
    max_new_tokens: int


@dataclass(kw_only=True)
class ReplicasOutcome:
    """What came of one part. Seconds and teams are those of `changes`: when how many teams took requests."""

    mode: str
    num_right: int = 0
    num_wrong: int = 0
    failed: dict[str, int] = field(default_factory=dict)  # by kind
    cpu_seconds: list[float] = field(default_factory=list)  # of each ingress while it was asked
    changes: list[tuple[float, int]] = field(default_factory=list)

    def add(self, replies: list[ClientReply], expected: dict[str, str]) -> None:
        """Count replies."""
        for reply in replies:
            is_right = reply.text == expected[reply.question.text]
            self.num_right += reply.is_answered and is_right
            self.num_wrong += reply.is_answered and not is_right
        failed = Counter(reply.outcome for reply in replies if not reply.is_answered)
        self.failed = dict(Counter(self.failed) + failed)


def measure_replicas(settings: ReplicasSettings) -> Iterator[ReplicasOutcome]:
    """Start Ray and the endpoint, and yield the outcome of both parts. Ends what it started."""
    loaded = load_questions("chain", min(settings.requests, 200))
    texts = [loaded[number % len(loaded)].question for number in range(settings.requests)]
    expected = _asked_alone(settings, set(texts))
    ray.init(
        num_cpus=_CORES,
        object_store_memory=_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        url = f"{start_serve()}/v1"
        with _deployed(settings, num_replicas=2):
            yield asyncio.run(_ask_two(url, texts, settings, expected))
        with _deployed(settings, autoscaling_config=_SCALING):
            yield asyncio.run(_ask_while_it_scales(url, texts, settings, expected))
    finally:
        serve.shutdown()
        ray.shutdown()


@contextmanager
def _deployed(settings: ReplicasSettings, **options: Any) -> Iterator[None]:
    fields = {name: getattr(settings, name) for name in ("model", "topology", "latent_steps", "max_new_tokens")}
    arguments = {**fields, "dtype": _DTYPE, "temperature": 0, "placement": "colocate", "threads": 1}
    deployment = team_deployment(arguments).options(**options)
    serve.run(deployment.bind(), name=_APPLICATION, route_prefix="/")
    try:
        yield
    finally:
        serve.delete(_APPLICATION)


async def _ask_two(url: str, texts: list[str], settings: ReplicasSettings, expected: dict[str, str]) -> ReplicasOutcome:
    outcome = ReplicasOutcome(mode="two replicas", changes=[(0.0, num_teams())])
    before = _cpu_seconds()
    async with ChatClient(url, max_tokens=settings.max_new_tokens, timeout=_TIMEOUT_SECONDS) as client:
        outcome.add(await closed_loop(client, _questions(texts, settings), settings.clients), expected)
    outcome.cpu_seconds = sorted(after - before.get(pid, 0.0) for pid, after in _cpu_seconds().items())
    return outcome


async def _ask_while_it_scales(
    url: str, texts: list[str], settings: ReplicasSettings, expected: dict[str, str]
) -> ReplicasOutcome:
    outcome = ReplicasOutcome(mode="autoscaling")
    begin = time.monotonic()

    async def watch() -> None:
        while True:
            if not outcome.changes or num_teams() != outcome.changes[-1][1]:
                outcome.changes.append((time.monotonic() - begin, num_teams()))
            await asyncio.sleep(0.25)

    watching = asyncio.create_task(watch())
    async with ChatClient(url, max_tokens=settings.max_new_tokens, timeout=_TIMEOUT_SECONDS) as client:
        for num_clients, wanted in ((settings.clients, 2), (1, 1)):
            end = time.monotonic() + _MOST_SECONDS
            while num_teams() != wanted and time.monotonic() < end:
                asked = _questions(texts, settings)[: max(num_clients, _FEWEST)]
                outcome.add(await closed_loop(client, asked, num_clients), expected)
    watching.cancel()
    return outcome


def num_teams() -> int:
    """Return how many replicas take requests."""
    application = serve.status().applications.get(_APPLICATION)
    if application is None or DEPLOYMENT not in application.deployments:
        return 0
    return int(application.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0))


def _questions(texts: list[str], settings: ReplicasSettings) -> list[ChatQuestion]:
    model = f"latentmas/{settings.topology}"
    return [ChatQuestion(model=model, key=f"q{number}", text=text) for number, text in enumerate(texts)]


def _cpu_seconds() -> dict[int, float]:
    """Return the CPU seconds of each ingress, by process."""
    found = {}
    for one in processes_of(f"ServeReplica:{_APPLICATION}"):
        with suppress(psutil.Error):
            times = one.cpu_times()
            found[one.pid] = times.user + times.system
    return found


def _asked_alone(settings: ReplicasSettings, texts: set[str]) -> dict[str, str]:
    fields: dict[str, Any] = {"latent_steps": settings.latent_steps, "max_new_tokens": settings.max_new_tokens}
    with LatentMAS(
        settings.model, topology=settings.topology, temperature=0, runtime="local", dtype=_DTYPE, **fields
    ) as mas:
        return {text: mas.ask(text).answer for text in sorted(texts)}


def show(outcome: ReplicasOutcome, *, as_json: bool) -> None:
    """Print an outcome."""
    if as_json:
        print(json.dumps(asdict(outcome)))
        return
    num = outcome.num_right + outcome.num_wrong + sum(outcome.failed.values())
    teams = ", ".join(f"{count} after {seconds:.0f} s" for seconds, count in outcome.changes)
    cpu = " and ".join(f"{seconds:.1f}" for seconds in outcome.cpu_seconds)
    print(
        f"{outcome.mode}: {outcome.num_right} of {num} right, {outcome.num_wrong} wrong, failed {outcome.failed}; "
        f"teams: {teams}" + (f"; CPU s of each ingress: {cpu}" if cpu else "")
    )
