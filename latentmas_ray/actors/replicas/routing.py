"""Chooses the replica that executes a turn."""

from collections.abc import Sequence

from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentRef
from latentmas_ray.placement.routing import least_loaded, of_batch

_STARTING = 10**9  # added to the load of a replica that is still starting: more than any other's
_RETIRING = 10**12  # … of one that retires: more than those
_GONE = (ReplicaState.LOST, ReplicaState.CLOSED)
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
        return _choose_colocated(replicas, read, batch)
    ready = ReplicaState.READY
    loads = [len(one.pending) if one.state is ready else _load_of_other(one) for one in replicas]
    if any(segment.sent_over is not None for segment in read):
        missing = [sum(not segment.can_be_read_on(one.nodes) for segment in read) for one in replicas]
        loads = [load + _NOT_SENT * count for load, count in zip(loads, missing, strict=True)]
    nodes = [segment.locations[0].source_node for segment in read]
    return replicas[least_loaded(replicas, loads, nodes, batch)]


def _load_of_other(replica: Replica) -> int:
    """Return the load of a replica that is not READY."""
    return len(replica.pending) + (_STARTING if replica.takes_turns else _RETIRING)


def _choose_colocated(replicas: Sequence[Replica], read: Sequence[SegmentRef], batch: int) -> Replica:
    """Return the replica that wrote what a turn reads; else the one of its batch. A run may have a thousand, so none
    is looked at but those, unless one is not READY."""
    writers = [one.writer for one in read if one.writer is not None and one.writer.state not in _GONE]
    if writers:
        return writers[0]
    if read:
        producers = [actor for segment in read for actor, _ in segment.holders]
        if writers := [one for one in replicas if any(actor in producers for actor in one.actors)]:
            return writers[0]
    if (usual := of_batch(replicas, [], batch)).state is ReplicaState.READY:
        return usual
    staying = [replica for replica in replicas if replica.takes_turns] or replicas
    up = [replica for replica in staying if replica.state is ReplicaState.READY] or staying
    return of_batch(up, [], batch)
