"""Ends of a matrix in one process: they bring the bytes of several senders, and measure plain TCP. No Ray."""

from collections.abc import Iterator

import pytest

from latentmas_ray.authentication import RunKey
from latentmas_ray.bench.matrix.end import MatrixEnd
from latentmas_ray.models.presets import kv_shape
from latentmas_ray.transport import DeviceLayout, find_available, pick_transport

TOKENS = 40


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[tuple[MatrixEnd, int], ...]]:
    """Three ends and their ports, as on three nodes."""
    key, made = RunKey(b"k" * 32), []
    transport, _ = pick_transport("auto", "none", DeviceLayout(nodes="several", available=find_available()))
    for number in range(3):
        end = MatrixEnd(kv_shape("tiny"), TOKENS, 1, key)
        facts = end.start("127.0.0.1")
        assert facts.gpu is None
        assert facts.free_bytes > 0
        end.prepare(transport, f"n{number}", None, 2)
        made.append((end, facts.port))
    yield tuple(made)
    for end, _ in made:
        end.close()


def test_an_end_receives_from_several_at_the_same_time(ends: tuple[tuple[MatrixEnd, int], ...]) -> None:
    (first, _), (second, _), (reader, _) = ends
    for _ in range(2):
        payloads = [first.send(), second.send()]
        timed = reader.receive([lambda payload=payload: payload for payload in payloads])  # type: ignore[misc]
        assert timed.seconds > 0
        assert timed.transport in ("tcp", "shared_memory")
        for end, _ in ends:
            end.release()
    assert reader.digest(sent=False) == first.digest(sent=True)
    assert first.digest(sent=True) != second.digest(sent=True)


def test_an_end_measures_memcpy_and_plain_tcp_to_one_and_to_several(ends: tuple[tuple[MatrixEnd, int], ...]) -> None:
    (first, _), *others = ends
    addresses = [("127.0.0.1", port) for _, port in others]
    assert first.copy_seconds().seconds > 0
    assert first.tcp_seconds(addresses[:1]).seconds > 0
    assert first.tcp_seconds(addresses, 1).seconds > 0
