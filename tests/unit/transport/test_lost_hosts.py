"""Connections to a host that does not answer are ended from another thread."""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from latentmas_ray.authentication import process_key
from latentmas_ray.errors import LinkError
from latentmas_ray.transport import channel
from latentmas_ray.transport.channel import Channel, end_connections
from latentmas_ray.transport.listener import Listener, call

HOST = "127.0.0.1"
PATIENCE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _outgoing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that other tests of this process do not share: a host is refused for some seconds."""
    monkeypatch.setattr(channel, "_OUTGOING", channel._OutgoingConnections())


def ended_by(wait: Callable[[], object], is_waiting: Callable[[], bool]) -> float:
    """The seconds until a wait for the host raises LinkError once its connections are ended."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        while not is_waiting():
            time.sleep(0.01)
        time.sleep(0.1)
        begin = time.monotonic()
        end_connections(HOST)
        with pytest.raises(LinkError):
            waiting.result(timeout=PATIENCE_SECONDS)
        return time.monotonic() - begin


def test_who_waits_for_bytes_waits_no_longer() -> None:
    is_served = threading.Event()

    def serve(peer: Channel, _hello: object) -> None:
        is_served.set()
        peer.receive(without_limit=True)

    listener = Listener(HOST, PATIENCE_SECONDS, serve)
    connection = call(listener.address, PATIENCE_SECONDS)
    assert ended_by(connection.receive, is_served.is_set) < PATIENCE_SECONDS / 2
    with pytest.raises(LinkError, match="its node does not answer"):  # for some seconds no attempt is made
        call(listener.address, PATIENCE_SECONDS)
    listener.close()


def test_who_tries_to_connect_waits_no_longer() -> None:
    """The queue of the server is full: its machine drops the first packet of a connection, as if it were gone."""
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen(0)
        port = server.getsockname()[1]
        queue = [socket.socket() for _ in range(3)]
        for one in queue:
            one.setblocking(False)
            one.connect_ex((HOST, port))
        connect = lambda: Channel.connect(HOST, port, b"", PATIENCE_SECONDS, process_key())  # noqa: E731
        assert ended_by(connect, lambda: bool(channel._OUTGOING._hosts)) < channel._CONNECT_SECONDS / 2
        for one in queue:
            one.close()


def test_other_hosts_are_left_alone() -> None:
    listener = Listener(HOST, PATIENCE_SECONDS, lambda peer, _: peer.send(says="yes"))
    end_connections("192.0.2.1")
    connection = call(listener.address, PATIENCE_SECONDS)
    end_connections("192.0.2.1")
    assert connection.receive() == {"says": "yes"}
    connection.close()
    listener.close()
