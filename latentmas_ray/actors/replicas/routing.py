"""Chooses the replica that executes a turn."""

from collections.abc import Sequence

from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentRef
from latentmas_ray.placement.routing import least_loaded, of_batch

_STARTING = 10**9  # added to the load of a replica that is still starting: more than any other's
_NOT_SENT = 10**6  # for each segment that a replica could not read


def choose_replica(replicas: Sequence[Replica], read: Sequence[SegmentRef], batch: int) -> Replica:
    """Return the replica with the fewest pending turns; among equals, the one with most of the segments that the turn
    reads on its node; then by batch number, round robin.

    Turns are submitted before the segments they read exist, so sizes are unknown and each segment counts the same. Load
    counts before locality because a turn takes longer than a transfer; a replica that is still starting counts last. If
    memory stays in the actor that made it (`colocated`), all turns of a batch go to the same replica, even if another
    replica was lost meanwhile. A replica that retires gets no other turns. A replica on a link for which a
    segment was not packed (it was added later) counts after all others.
    """
    if replicas[0].colocated:
        producers = [actor for segment in read for actor, _ in segment.holders]
        writers = [replica for replica in replicas if any(actor in producers for actor in replica.actors)]
        staying = [replica for replica in replicas if replica.takes_turns] or replicas
        up = [replica for replica in staying if replica.state is ReplicaState.READY] or staying
        return of_batch(up, writers, batch)

    if not all(replica.takes_turns for replica in replicas):
        replicas = [replica for replica in replicas if replica.takes_turns] or replicas
    loads = [len(one.pending) + (0 if one.state is ReplicaState.READY else _STARTING) for one in replicas]
    if any(segment.sent_over is not None for segment in read):
        missing = [sum(not segment.can_be_read_on(one.nodes) for segment in read) for one in replicas]
        loads = [load + _NOT_SENT * count for load, count in zip(loads, missing, strict=True)]
    nodes = [segment.locations[0].source_node for segment in read]
    return replicas[least_loaded(replicas, loads, nodes, batch)]
