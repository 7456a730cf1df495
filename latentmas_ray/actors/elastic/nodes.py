"""What Ray says of the nodes of its cluster: what is free there, and which will be removed soon."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import ray

from latentmas_ray.actors.errors import cluster_errors, reason
from latentmas_ray.errors import ClusterError

LOOK_SECONDS = 2.0  # between two looks
_ANSWER_SECONDS = 5  # Ray takes a whole number
_DRAINING = "DRAINING"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NodeSupply:
    """One live node: what Ray can still give away there, and whether it will be removed soon."""

    name: str
    free_gpus: float
    free_cpus: float
    num_gpus: float = 0.0
    num_cpus: float = 0.0
    is_draining: bool = False


def read_nodes() -> dict[str, NodeSupply]:
    """Return the live nodes by name. Raises ClusterError if Ray does not answer within seconds."""
    # Ray has no stable interface for draining nodes and for what is free on each. `ray status` prints this module's
    # answer; a test fails if another version of Ray answers otherwise. Imported here, as actors have no need of it.
    try:
        from ray.autoscaler.v2.sdk import get_cluster_status
    except ImportError as error:
        raise ClusterError("this version of Ray does not tell the state of nodes") from error
    if not ray.is_initialized():  # else Ray would start a cluster
        raise ClusterError("this process has left its cluster")
    with cluster_errors("the state of nodes is not known"):
        status = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=_ANSWER_SECONDS)
    found = {}
    for node in (*status.active_nodes, *status.idle_nodes):
        free, total = node.available_resources(), node.total_resources()
        found[node.node_id] = NodeSupply(
            name=node.node_id,
            free_gpus=free.get("GPU", 0.0),
            free_cpus=free.get("CPU", 0.0),
            num_gpus=total.get("GPU", 0.0),
            num_cpus=total.get("CPU", 0.0),
            is_draining=node.node_status == _DRAINING,
        )
    return found


class SupplyWatch:
    """Reads the nodes in a thread of its own, every `LOOK_SECONDS`: Ray may not answer for a while."""

    def __init__(
        self,
        read: Callable[[], Mapping[str, NodeSupply]] = read_nodes,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._clock = read, clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="node watch")
        self._asked: Future[Mapping[str, NodeSupply]] | None = None
        self._asked_at = -math.inf
        self._has_failed = False
        self._others: list[Future[None]] = []

    def take(self) -> Mapping[str, NodeSupply] | None:
        """Return the nodes if a look has ended since the last call, else None; never waits. Starts the next look."""
        now = self._clock()
        if self._asked is None:
            if now - self._asked_at >= LOOK_SECONDS:
                self._asked, self._asked_at = self._pool.submit(self._read), now
            return None
        if not self._asked.done():
            return None
        asked, self._asked = self._asked, None
        try:
            nodes = asked.result()
        except ClusterError as error:
            if not self._has_failed:
                _log.info("nodes are not followed for now: %s", reason(error))
            self._has_failed = True
            return None
        self._has_failed = False
        return nodes

    def run(self, call: Callable[[], None]) -> None:
        """Call it in the same thread; a ClusterError is logged."""

        def logged() -> None:
            try:
                call()
            except ClusterError as error:
                _log.info("%s", reason(error))

        self._others.append(self._pool.submit(logged))

    def close(self) -> None:
        """Wait a few seconds for the calls of `run`, and end the thread once its look has ended."""
        wait(self._others, timeout=_ANSWER_SECONDS)
        self._pool.shutdown(wait=False, cancel_futures=True)
