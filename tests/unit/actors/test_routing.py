"""Which replica gets a turn."""

from collections.abc import Mapping
from typing import Any

from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentLocation, SegmentRef, Turn
from latentmas_ray.actors.replicas.routing import choose_replica


class Idle(Replica):
    """Carries out nothing."""

    def start(self, transport: Any = None) -> list[Any]:
        return []

    def submit(self, work: Any, segments: Mapping[str, Any], *, transport: Any, overlap: bool) -> Any:
        raise NotImplementedError

    def result(self, turn: Turn) -> Any:
        raise NotImplementedError

    def cancel(self, turn: Turn) -> None:
        raise NotImplementedError


def replica(node: str, *, pending: int = 0, is_up: bool = True, colocated: bool = False) -> Idle:
    made = Idle([], [node], colocated=colocated)
    made.state = ReplicaState.READY if is_up else ReplicaState.STARTING
    made.pending = dict.fromkeys(Turn(number, 0.0, (), {}) for number in range(pending))
    return made


def on(node: str) -> SegmentRef:
    return SegmentRef(((),), (SegmentLocation(node),))


def chosen(replicas: list[Idle], *read: SegmentRef, batch: int = 0) -> int:
    return replicas.index(choose_replica(replicas, read, batch))  # type: ignore[arg-type]


def test_batches_go_round_where_nothing_speaks_against_it() -> None:
    replicas = [replica("a"), replica("a"), replica("a")]
    assert [chosen(replicas, batch=batch) for batch in range(4)] == [0, 1, 2, 0]


def test_the_least_loaded_replica_is_taken_wherever_its_memory_is() -> None:
    assert chosen([replica("a", pending=2), replica("b", pending=1)], on("a")) == 1


def test_of_those_with_the_same_load_the_one_near_its_memory() -> None:
    replicas = [replica("a", pending=1), replica("b", pending=1), replica("c", pending=1)]
    assert chosen(replicas, on("b"), on("c"), on("c"), batch=0) == 2
    assert chosen(replicas, on("b"), batch=2) == 1


def test_one_that_is_starting_gets_nothing_while_others_are_up() -> None:
    assert chosen([replica("a", is_up=False), replica("b", pending=9)]) == 1
    assert chosen([replica("a", is_up=False), replica("b", is_up=False)]) == 0


def test_where_memory_stays_in_its_actor_a_batch_stays_too() -> None:
    replicas = [replica("a", pending=9, colocated=True), replica("a", colocated=True)]
    assert [chosen(replicas, on("a"), batch=batch) for batch in range(3)] == [0, 1, 0]


def test_where_memory_stays_in_its_actor_it_is_read_there_although_another_replica_is_gone() -> None:
    replicas = [Idle([number], ["a"], colocated=True) for number in range(3)]
    made = SegmentRef(((),), (SegmentLocation("a", colocated=True),), [(2, ())])
    assert chosen(replicas, made, batch=2) == 2
    assert chosen([replicas[0], replicas[2]], made, batch=2) == 1


def test_the_writer_of_a_segment_reads_it_though_thousands_of_others_are_there() -> None:
    replicas = [replica("a", colocated=True) for _ in range(2000)]
    compared = []

    class Counted(list[Idle]):
        def __iter__(self) -> Any:
            compared.append(1)
            return super().__iter__()

    members = Counted(replicas)
    made = SegmentRef(((),), (SegmentLocation("a", colocated=True),), [], writer=replicas[7])
    assert choose_replica(members, [made], 3) is replicas[7]
    assert choose_replica(members, [], 2003) is replicas[3]
    assert compared == []
    replicas[7].state = ReplicaState.LOST
    assert choose_replica(members, [made], 3) is replicas[3]  # where it will lack its memory, and be repeated
    replicas[3].state = ReplicaState.STARTING
    assert choose_replica(members, [], 3) is not replicas[3]


def test_a_replica_that_retires_gets_nothing_while_another_can_have_it() -> None:
    replicas = [replica("a"), replica("b", is_up=False), replica("c", pending=9)]
    replicas[0].state = ReplicaState.RETIRING
    assert chosen(replicas) == 2
    replicas[2].state = ReplicaState.RETIRING
    assert chosen(replicas) == 1
