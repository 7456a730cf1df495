"""Chooses the replica that executes a turn."""

from collections.abc import Sequence

from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentRef


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
        owners = [replica for replica in replicas if any(actor in producers for actor in replica.actors)]
        if owners:
            return owners[0]
    replicas = [replica for replica in replicas if replica.takes_turns] or replicas
    if replicas[0].colocated:
        up = [replica for replica in replicas if replica.state is ReplicaState.READY] or replicas
        return up[batch % len(up)]

    def cost(index: int) -> tuple[bool, int, int, int, int]:
        replica = replicas[index]
        num_remote = sum(segment.locations[0].source_node not in replica.nodes for segment in read)
        return (
            replica.state is not ReplicaState.READY,
            sum(not segment.can_be_read_on(replica.nodes) for segment in read),
            len(replica.pending),
            num_remote,
            (index - batch) % len(replicas),
        )

    return replicas[min(range(len(replicas)), key=cost)]
