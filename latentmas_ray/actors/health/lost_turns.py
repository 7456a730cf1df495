"""The turns and segments that are lost with a replica."""

from collections.abc import Iterable, MutableMapping, MutableSet, Set
from typing import Any

from latentmas_ray.actors.replicas.replica import Replica, ReplicaState
from latentmas_ray.scheduler.protocol import TurnHandle, TurnLost


def take_lost_turns(
    pending: MutableMapping[TurnHandle, Any],
    done: MutableSet[TurnHandle],
    replicas: Iterable[Replica],
    lost_nodes: Set[str] = frozenset(),
) -> list[TurnLost]:
    """Remove the turns of lost replicas from `pending`, and from `done` the finished turns whose segments are lost;
    return all of them. `replicas`, the current ones, wait no longer for segments whose node is lost: `lost_nodes` are.

    If a node is silent, no other event would report them.
    """

    def is_out_of_reach(replica: Replica) -> bool:
        return replica.is_node_lost or not lost_nodes.isdisjoint(replica.nodes)

    events = []
    for handle in [one for one in pending if _replica_of(one).state is ReplicaState.LOST]:
        error = _replica_of(handle).lost_error(handle.turn.turn, handle.agent)
        del pending[handle]
        _replica_of(handle).pending.pop(handle.turn.turn, None)
        events.append(TurnLost(handle, str(error), is_suspect=error.is_suspect))
    for handle in [one for one in done if _replica_of(one).state is ReplicaState.LOST]:
        # Bytes in the object store survive their producer, but not its node.
        if handle.segment.holders or is_out_of_reach(_replica_of(handle)):
            done.discard(handle)
            events.append(TurnLost(handle, f"its segment was lost with the actor of agent {handle.agent}"))
    out_of_reach = [one.handle.segment for one in events if is_out_of_reach(_replica_of(one.handle))]
    if names := [segment.segment_id for segment in out_of_reach if segment is not None]:
        for replica in replicas:
            if replica.state is ReplicaState.READY:
                replica.stop_waiting(names)
    return events


def _replica_of(handle: TurnHandle) -> Replica:
    replica: Replica = handle.turn.replica
    return replica
