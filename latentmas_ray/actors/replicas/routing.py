"""Which replica gets a turn."""

from collections.abc import Sequence

from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentRef


def choose_replica(replicas: Sequence[Replica], read: Sequence[SegmentRef], batch: int) -> Replica:
    """The least loaded one; of those the one with most of the turn's memory on its node; of those in turn by batch.

    Turns are submitted before what they read is there, so the bytes of a segment are not known: each counts the same.
    A turn takes longer than a transfer, so load counts before that, and a start takes longer than a turn. Where memory
    stays in the actor that made it, all turns of a batch go to the same one, also when another is gone meanwhile.
    """
    if replicas[0].stays:
        makers = [actor for segment in read for actor, _ in segment.holders]
        homes = [replica for replica in replicas if any(actor in makers for actor in replica.actors)]
        return homes[0] if homes else replicas[batch % len(replicas)]

    def cost(place: int) -> tuple[bool, int, int, int]:
        replica = replicas[place]
        far = sum(segment.whereabouts[0].source_node not in replica.nodes for segment in read)
        return replica.state is not ReplicaState.READY, len(replica.pending), far, (place - batch) % len(replicas)

    return replicas[min(range(len(replicas)), key=cost)]
