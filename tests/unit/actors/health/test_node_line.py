"""A line over TCP on this machine: what the kernel tells of it."""

import contextlib
import os
import socket
import time

import pytest

from latentmas_ray.actors.health.node_line import LineReading, LineState, TcpLine, can_watch

pytestmark = pytest.mark.skipif(not can_watch(), reason="this system does not tell what its kernel knows")
PATIENCE_SECONDS = 60.0


def read_until(line: TcpLine, *states: LineState) -> LineReading:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (reading := line.read()).state not in states:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return reading


def test_a_line_to_a_process_that_never_accepts_is_open() -> None:
    """Its kernel answers for it."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.closing(TcpLine(*server.getsockname())) as line:
        reading = read_until(line, LineState.OPEN)
        assert reading.num_unanswered == 0
        assert 0.0 <= reading.silent_seconds < PATIENCE_SECONDS
        assert line.is_local


def test_what_the_other_side_says_is_dropped_and_its_end_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.closing(TcpLine(*server.getsockname())) as line:
        peer, _ = server.accept()
        peer.sendall(os.urandom(1000))
        assert read_until(line, LineState.OPEN, LineState.ENDED).state is LineState.OPEN
        peer.close()
        read_until(line, LineState.ENDED)


def test_a_port_where_no_process_listens_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    with contextlib.closing(TcpLine(*address)) as line:
        read_until(line, LineState.REFUSED)
        assert not line.is_local
        assert line.read().state is LineState.REFUSED


def test_a_name_is_not_looked_up() -> None:
    """A resolver may take its time."""
    with pytest.raises(OSError, match=r"."):
        TcpLine("some.host.invalid", 1)
