"""What every transport must do between actors: bytes arrive exactly as they left, or an error says in time why not."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from latentmas_ray.authentication import RunKey
from latentmas_ray.transport import Gloo, Nixl, ObjectStore, SharedMemory, Tcp, Transport, find_available
from latentmas_ray.transport.capabilities import Capabilities
from tests.ray.transport_peers import Case, Read, killed_after, start, stopped

PATIENCE_SECONDS = 60.0
TIMEOUT_SECONDS = 2.0
BIG = Case(megabytes=24, dtype="bfloat16")
MIDDLING = Case(megabytes=8)
MAKERS: dict[str, Callable[[], Transport]] = {
    "object_store": ObjectStore,
    "shared_memory": SharedMemory,
    "tcp": lambda: Tcp(TIMEOUT_SECONDS, shares_memory=False),
    "gloo": lambda: Gloo(TIMEOUT_SECONDS),
    "nixl": lambda: Nixl(TIMEOUT_SECONDS),
}

# A death costs the start of another process. What lies in Ray's own store is for Ray to keep; `test_segments.py` has a
# producer of such memory that dies.
DEATHS = pytest.mark.parametrize(
    "peers",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "object_store")) for name in MAKERS],
    indirect=True,
    scope="module",
)

pytestmark = pytest.mark.usefixtures("cluster")


def get(reference: Any) -> Any:
    return ray.get(reference, timeout=PATIENCE_SECONDS)


class Peers:
    """A producer and two readers, which can use every transport."""

    def __init__(self) -> None:
        self.transports = {name: make() for name, make in MAKERS.items()}
        self.name = next(iter(MAKERS))
        self.key = RunKey.generate()
        self.producer, self.reader, self.other = (start(self.transports, self.name, self.key) for _ in range(3))

    @property
    def capabilities(self) -> Capabilities:
        return self.transports[self.name].capabilities

    def use(self, name: str) -> None:
        self.name = name
        get([actor.use.remote(name) for actor in (self.producer, self.reader, self.other)])

    def replace(self, role: str) -> None:
        """This one has died. Another begins to start at once."""
        setattr(self, role, start(self.transports, self.name, self.key))


@pytest.fixture(scope="module")
def all_peers(cluster: None) -> Iterator[Peers]:
    peers = Peers()
    yield peers
    for actor in (peers.producer, peers.reader, peers.other):
        ray.kill(actor)


@pytest.fixture(scope="module", params=list(MAKERS))
def peers(request: pytest.FixtureRequest, all_peers: Peers) -> Peers:
    needs = all_peers.transports[request.param].capabilities.needs
    if needs is not None and needs not in find_available():
        pytest.skip(f"{needs} is not here")
    all_peers.use(request.param)
    return all_peers


def assert_right(read: Read) -> None:
    assert (read.error, read.message) == ("", "")


def assert_told(read: Read, error: str = "TransferError") -> None:
    assert read.error == error, read
    assert read.message
    assert read.seconds < TIMEOUT_SECONDS + 10  # and soon, as far as the machine has time for it


@pytest.mark.parametrize(
    "case",
    [
        *(Case(dtype=dtype) for dtype in ("float32", "bfloat16", "float16")),
        Case(turns=((5, 2), (3, 0)), windows=((5, 7), (3, 3))),
        Case(turns=((4, 0),), windows=((4, 4),)),
        BIG,
    ],
    ids=["float32", "bfloat16", "float16", "part", "empty", "24 MB"],
)
def test_a_piece_arrives_as_it_left(peers: Peers, case: Case) -> None:
    payload = peers.producer.pack.remote(case)
    assert_right(get(peers.reader.read.remote(payload, case)))
    get(peers.producer.release.remote(payload))


def test_two_pieces_of_a_segment_in_any_order(peers: Peers) -> None:
    cases = [Case(part=0), Case(part=1)]
    payloads = [peers.producer.pack.remote(case) for case in cases]
    for index in (1, 0):
        assert_right(get(peers.reader.read.remote(payloads[index], cases[index])))


def test_two_readers_at_once_and_one_of_them_again(peers: Peers) -> None:
    payload = peers.producer.pack.remote(BIG)
    reads = [peer.read.remote(payload, BIG) for peer in (peers.reader, peers.other, peers.reader)]
    for read in get(reads):
        assert_right(read)
    get(peers.producer.release.remote(payload))


def test_many_small_pieces(peers: Peers) -> None:
    cases = [Case(turns=((1 + number % 7, number % 3),), seed=number) for number in range(60)]
    payloads = get(peers.producer.pack_many.remote(cases))
    for read in get(peers.reader.read_many.remote(payloads, cases)):
        assert_right(read)
    get(peers.producer.release.remote(*payloads))


def test_a_busy_producer_keeps_nobody_waiting(peers: Peers, tmp_path: Path) -> None:
    is_read = tmp_path / "is read"
    payload = peers.producer.pack.remote(BIG)
    get(payload)
    busy = peers.producer.be_busy.remote(is_read, PATIENCE_SECONDS)
    assert_right(get(peers.reader.read.remote(payload, BIG)))
    assert not ray.wait([busy], timeout=0)[0]
    is_read.touch()
    get(busy)
    get(peers.producer.release.remote(payload))


def test_memory_of_another_model_is_refused(peers: Peers) -> None:
    payload = peers.producer.pack.remote(Case())
    other = replace(Case().spec, weights_revision="another")
    assert_told(get(peers.reader.read.remote(payload, Case(), other)), "IncompatibleMemoryError")


def test_a_damaged_payload_is_noticed(peers: Peers) -> None:
    payload = get(peers.producer.pack.remote(Case()))
    damaged = _with_header(payload, _flip(_header_of(payload)))
    assert_told(get(peers.reader.read.remote(damaged, Case())), "WireError")
    assert_right(get(peers.reader.read.remote(payload, Case())))


def test_bytes_of_another_piece_are_noticed(peers: Peers) -> None:
    """Same size, other numbers; a handle that does not belong to the header is refused already."""
    one, other = get(peers.producer.pack_many.remote([Case(), Case(seed=1)]))
    swapped = _with_header(one, _header_of(other))
    assert_told(get(peers.reader.read.remote(swapped, Case())), "WireError")


@pytest.fixture(scope="module")
def stranger(all_peers: Peers) -> Iterator[Any]:
    """A process of another run."""
    stranger = start(all_peers.transports, all_peers.name, RunKey.generate())
    yield stranger
    ray.kill(stranger)


def test_memory_of_another_run_is_refused(peers: Peers, stranger: Any) -> None:
    get(stranger.use.remote(peers.name))
    payload = peers.producer.pack.remote(Case())
    assert_told(get(stranger.read.remote(payload, Case())), "WireError")
    assert_told(get(peers.reader.read.remote(stranger.pack.remote(Case()), Case())), "WireError")
    assert_right(get(peers.reader.read.remote(payload, Case())))


def test_what_was_released_is_gone(peers: Peers) -> None:
    if peers.name == "object_store":
        pytest.skip("Ray itself frees objects without references")
    payload, other = get(peers.producer.pack_many.remote([Case(), Case(seed=1)]))
    assert_right(get(peers.reader.read.remote(payload, Case())))
    get(peers.producer.release.remote(payload, payload))
    read = get(peers.reader.read.remote(payload, Case()))
    assert_told(read)
    assert "gone" in read.message, "it was not waited for"
    assert_right(get(peers.reader.read.remote(other, Case(seed=1))))


def test_a_piece_that_is_held_outlives_release_and_what_is_packed_next(peers: Peers) -> None:
    payload = peers.producer.pack.remote(MIDDLING)
    assert_right(get(peers.reader.read_and_hold.remote(payload, MIDDLING)))
    get(peers.producer.release.remote(payload))
    for seed in (1, 2):
        case = replace(MIDDLING, seed=seed)
        payload = peers.producer.pack.remote(case)
        assert_right(get(peers.other.read.remote(payload, case)))
        get(peers.producer.release.remote(payload))
    assert get(peers.reader.check_held.remote()) == [""]


def test_nothing_is_left_over(peers: Peers) -> None:
    """Descriptors and shared memory after twenty more pieces are what they were after five."""

    def move(count: int) -> None:
        for seed in range(count):
            case = Case(megabytes=4, seed=seed)
            payload = peers.producer.pack.remote(case)
            assert_right(get(peers.reader.read.remote(payload, case)))
            get(peers.producer.release.remote(payload))

    def used() -> list[int]:
        both = (peers.producer, peers.reader)
        return [get(actor.num_descriptors.remote()) for actor in both]

    move(5)
    before, shared_before = used(), get(peers.producer.shared_bytes.remote())
    move(20)
    grown = [after - then for after, then in zip(used(), before, strict=True)]
    assert max(grown) <= 3, grown
    if peers.name != "object_store":  # whose pages stay mapped until Ray needs them
        assert get(peers.producer.shared_bytes.remote()) <= shared_before + 2**20


def test_a_producer_that_stands_still_is_not_waited_for_forever(peers: Peers) -> None:
    payload = get(peers.producer.pack.remote(BIG))
    with stopped(get(peers.producer.pid.remote())):
        read = get(peers.reader.read.remote(payload, BIG))
        if not peers.capabilities.one_sided or read.error:
            assert_told(read)
        assert not read.error or not peers.capabilities.one_sided or peers.name == "nixl"
    assert_right(get(peers.reader.read.remote(payload, BIG)))


@DEATHS
def test_a_reader_that_dies_costs_nobody_else_anything(peers: Peers) -> None:
    payload = peers.producer.pack.remote(BIG)
    assert_right(get(peers.other.read.remote(payload, BIG)))
    pid = get(peers.reader.pid.remote())
    with killed_after(pid, 0.3):
        reading = peers.reader.read_until_it_fails.remote(payload, BIG, PATIENCE_SECONDS)
        with pytest.raises(ray.exceptions.RayActorError):
            get(reading)
    peers.replace("reader")
    assert_right(get(peers.other.read.remote(payload, BIG)))
    assert_right(get(peers.reader.read.remote(payload, BIG)))
    get(peers.producer.release.remote(payload))


@DEATHS
def test_a_producer_that_dies_takes_along_what_only_it_had(peers: Peers) -> None:
    """During a read and after it: no reader hangs or reads wrong numbers, and what was read stays valid."""
    payload = peers.producer.pack.remote(BIG)
    assert_right(get(peers.other.read_and_hold.remote(payload, BIG)))
    with killed_after(get(peers.producer.pid.remote()), 0.3):
        limit = 1.0 if peers.capabilities.survives_producer else PATIENCE_SECONDS
        read = get(peers.reader.read_until_it_fails.remote(payload, BIG, limit))
    peers.replace("producer")
    if peers.capabilities.survives_producer:
        assert_right(read)
    else:
        assert_told(read)
        assert_told(get(peers.reader.read.remote(payload, BIG)))  # and before a transfer
        assert_told(get(peers.other.read.remote(payload, BIG)))
    assert get(peers.other.check_held.remote()) == [""]
    fresh = peers.producer.pack.remote(Case())
    assert_right(get(peers.reader.read.remote(fresh, Case())))


@pytest.mark.slow  # the two tests before have a producer that stands still, and one that dies
def test_a_stopped_producer_that_dies_is_noticed_at_once(peers: Peers) -> None:
    if peers.capabilities.one_sided:
        pytest.skip("nothing waits for the producer")
    payload = get(peers.producer.pack.remote(BIG))
    assert_right(get(peers.reader.read.remote(payload, BIG)))
    pid = get(peers.producer.pid.remote())
    with stopped(pid), killed_after(pid, 0.5):
        read = get(peers.reader.read.remote(payload, BIG))
    assert_told(read)
    assert f"for {TIMEOUT_SECONDS:g} s" not in read.message, "it waited for an answer"
    peers.replace("producer")


def _header_of(payload: Any) -> bytes:
    header: bytes = payload[0] if isinstance(payload, tuple) else payload.header
    return header


def _with_header(payload: Any, header: bytes) -> Any:
    return (header, *payload[1:]) if isinstance(payload, tuple) else replace(payload, header=header)


def _flip(header: bytes) -> bytes:
    return header[:-1] + bytes([header[-1] ^ 1])
