"""Chooses the replica that executes a turn."""

from collections.abc import Sequence

from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentRef
from latentmas_ray.placement.routing import least_loaded, of_batch

_STARTING = 10**9  # added to the load of a replica that is still starting: more than any other's


def choose_replica(replicas: Sequence[Replica], read: Sequence[SegmentRef], batch: int) -> Replica:
    """Return the replica with the fewest pending turns; among equals, the one with most of the segments that the turn
    reads on its node; then by batch number, round robin.

    Turns are submitted before the segments they read exist, so sizes are unknown and each segment counts the same. Load
    counts before locality because a turn takes longer than a transfer; a replica that is still starting counts last. If
    memory stays in the actor that made it (`colocated`), all turns of a batch go to the same replica, even if another
    replica was lost meanwhile.
    """
    if replicas[0].colocated:
        producers = [actor for segment in read for actor, _ in segment.holders]
        writers = [replica for replica in replicas if any(actor in producers for actor in replica.actors)]
        return of_batch(replicas, writers, batch)

    loads = [len(one.pending) + (0 if one.state is ReplicaState.READY else _STARTING) for one in replicas]
    nodes = [segment.locations[0].source_node for segment in read]
    return replicas[least_loaded(replicas, loads, nodes, batch)]
