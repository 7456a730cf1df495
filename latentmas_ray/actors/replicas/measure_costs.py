"""Measures transfer costs at the start of a run: the links between actors, and each reader's prefill."""

import logging
from collections.abc import Mapping, Sequence
from itertools import product

import ray

from latentmas_ray.actors.errors import cluster_errors
from latentmas_ray.actors.replicas.replica import Replica
from latentmas_ray.errors import ClusterError
from latentmas_ray.scheduler.transfer_choice import TransferCosts

PROBE_BYTES = 16 * 2**20
PREFILL_TOKENS = 256
_REPEATS = 3
_TIMEOUT_SECONDS = 300.0
_log = logging.getLogger(__name__)


def measure_costs_if_possible(replicas_of: Mapping[str, Sequence[Replica]]) -> TransferCosts | None:
    """Return what `measure_costs` returns, or None if an actor is lost meanwhile, which the run finds out."""
    try:
        return measure_costs(replicas_of)
    except ClusterError as error:
        _log.warning("memory is sent as kv: %s", error)
        return None


def measure_costs(replicas_of: Mapping[str, Sequence[Replica]]) -> TransferCosts:
    """Return the slowest link between the replicas of each pair of agents, and the slowest prefill of each agent.

    `replicas_of` holds each agent's replicas. Links are measured once per pair of nodes: an actor of one node returns a
    probe of `PROBE_BYTES` and an actor of the other reads it, through the object store, whatever transport the run
    uses. Raises ClusterError if an actor does not answer.
    """
    with cluster_errors("transfer costs could not be measured"):
        rates = ray.get(
            [
                replica.actors[0].measure_prefill.options(concurrency_group="turns").remote(PREFILL_TOKENS)
                for replicas in replicas_of.values()
                for replica in replicas
            ],
            timeout=_TIMEOUT_SECONDS,
        )
        links = _measure_links({replica.nodes[0]: replica for replicas in replicas_of.values() for replica in replicas})
    numbers = iter(rates)
    return TransferCosts(
        bytes_per_second={
            (source, reader): min(links[one.nodes[0], other.nodes[0]] for one, other in product(senders, readers))
            for (source, senders), (reader, readers) in product(replicas_of.items(), repeat=2)
        },
        prefill_tokens_per_second={agent: min(next(numbers) for _ in actors) for agent, actors in replicas_of.items()},
    )


def _measure_links(actor_on: Mapping[str, Replica]) -> dict[tuple[str, str], float]:
    """Return the bytes per second between each pair of nodes, measured one after another to avoid interference."""
    links = {}
    for sender, reader in product(actor_on, repeat=2):
        seconds = []
        for _ in range(_REPEATS):
            probe = actor_on[sender].actors[0].send_probe.options(concurrency_group="side").remote(PROBE_BYTES)
            ray.wait([probe], timeout=_TIMEOUT_SECONDS, fetch_local=False)
            receive = actor_on[reader].actors[0].receive_probe.options(concurrency_group="side")
            seconds.append(ray.get(receive.remote([probe]), timeout=_TIMEOUT_SECONDS))
        links[sender, reader] = PROBE_BYTES / max(1e-9, min(seconds))
    return links
