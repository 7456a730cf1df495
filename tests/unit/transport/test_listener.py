"""Which peers a listener accepts, what unauthenticated ones cost it, and that it continues after a shortage."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch

import latentmas_ray.transport.listener as listening
from latentmas_ray.authentication import RunKey
from latentmas_ray.errors import LinkError
from latentmas_ray.transport.channel import Channel, StalledError
from latentmas_ray.transport.handshake import Examination
from latentmas_ray.transport.listener import Listener, ServerAddress, call, max_pending
from latentmas_ray.transport.tcp.streams import StreamConnection

HOST = "127.0.0.1"
KEY, OTHER_KEY = RunKey(b"k" * 32), RunKey(b"o" * 32)
TIMEOUT_SECONDS = 2.0


def echo(channel: Channel, hello: dict[str, Any]) -> None:
    channel.send(**hello)
    while True:
        channel.send(**channel.receive(without_limit=True))


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener(HOST, TIMEOUT_SECONDS, echo, KEY)
    yield listener
    listener.close()
    listener.close()


def assert_served(address: ServerAddress, **hello: Any) -> None:
    channel = call(address, TIMEOUT_SECONDS, KEY, **hello)
    assert channel.receive() == hello
    channel.send(more=[1, "two", b"three"])
    assert channel.receive() == {"more": [1, "two", b"three"]}
    channel.close()


def connect(address: ServerAddress) -> socket.socket:
    return socket.create_connection((address.host, address.port), 5)


def is_closed(connection: socket.socket, within: float) -> bool:
    """Whether the listener closes a connection in this time, after at most one answer."""
    connection.settimeout(within)
    try:
        while connection.recv(1000):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        pass
    return True


def test_a_reader_of_the_run_is_served(listener: Listener) -> None:
    for number in range(3):
        assert_served(listener.address, number=number)


@pytest.mark.parametrize("key", [OTHER_KEY, None], ids=["another run", "no run"])
def test_a_reader_of_another_run_learns_nothing(listener: Listener, key: RunKey | None) -> None:
    with pytest.raises(LinkError, match="does not have the key of this run"):
        call(listener.address, TIMEOUT_SECONDS, key)
    assert_served(listener.address)


def test_another_producer_of_the_run_is_not_taken_for_this_one(listener: Listener) -> None:
    with pytest.raises(LinkError, match="does not have the key"):
        call(replace(listener.address, identity=bytes(16)), TIMEOUT_SECONDS, KEY)


class Recorder:
    """A process in the middle: passes on what both say, changed by `change`, and writes it down."""

    def __init__(self, address: ServerAddress, change: Callable[[int, bytes], bytes] = lambda _, said: said) -> None:
        self._server = socket.create_server((HOST, 0))
        self.address = replace(address, port=self._server.getsockname()[1])
        self.said: list[tuple[bool, bytes]] = []
        self._change, self._target = change, address
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        reader, _ = self._server.accept()
        with reader, connect(self._target) as producer:
            threading.Thread(target=self._pass_on, args=(producer, reader, False), daemon=True).start()
            self._pass_on(reader, producer, True)

    def _pass_on(self, source: socket.socket, target: socket.socket, is_reader: bool) -> None:
        number = 0
        try:
            while said := source.recv(65536):
                self.said.append((is_reader, said))
                target.sendall(self._change(number, said) if is_reader else said)
                number += 1
        except OSError:
            pass


def test_neither_key_nor_message_is_on_the_wire(listener: Listener) -> None:
    middle = Recorder(listener.address)
    channel = call(middle.address, TIMEOUT_SECONDS, KEY, word="unmistakable")
    assert channel.receive() == {"word": "unmistakable"}
    channel.close()
    wire = b"".join(said for _, said in middle.said)
    assert b"k" * 8 not in wire
    assert b"unmistakable" not in wire
    assert listener.address.identity not in wire
    assert KEY.derive("handles") not in wire


def test_what_was_said_once_cannot_be_said_again(listener: Listener) -> None:
    middle = Recorder(listener.address)
    channel = call(middle.address, TIMEOUT_SECONDS, KEY, word=1)
    channel.receive()
    channel.close()
    with connect(listener.address) as again:
        for is_reader, said in list(middle.said):
            if is_reader:
                again.sendall(said)
        assert is_closed(again, 1.0)
    assert_served(listener.address)


def test_a_proof_sent_back_is_none(listener: Listener) -> None:
    """A stranger shows the producer's own proof, and its own hello."""
    with connect(listener.address) as stranger:
        stranger.sendall(b"LMH1" + bytes(32))
        answer = stranger.recv(64, socket.MSG_WAITALL)
        stranger.sendall(answer[32:])
        assert is_closed(stranger, 1.0)
    with socket.create_server((HOST, 0)) as server:
        address = replace(listener.address, port=server.getsockname()[1])

        def reflect() -> None:
            connection, _ = server.accept()
            with connection:
                hello = connection.recv(36, socket.MSG_WAITALL)
                connection.sendall(hello[4:] + hello[4:])

        threading.Thread(target=reflect, daemon=True).start()
        with pytest.raises(LinkError, match="does not have the key"):
            call(address, TIMEOUT_SECONDS, KEY)


@pytest.mark.parametrize("number", [2, 3])
def test_an_altered_message_ends_its_connection(listener: Listener, number: int) -> None:
    def change(index: int, said: bytes) -> bytes:
        return said[:-1] + bytes([said[-1] ^ 1]) if index == number else said

    middle = Recorder(listener.address, change)
    channel = call(middle.address, TIMEOUT_SECONDS, KEY)
    with pytest.raises(LinkError):  # noqa: PT012
        for index in range(3):
            channel.receive()
            channel.send(index=index)
            time.sleep(0.05)  # so that each message is passed on by itself
    assert_served(listener.address)


STRANGE = (b"GET / HTTP/1.1\r\n\r\n", b"LMH2" + bytes(32), b"\0", b"LMH1" + bytes(64), b"L", b"LMH1" + bytes(31), b"")


def test_strangers_have_one_time_limit_for_all_that_they_say(listener: Listener) -> None:
    """All at the same time: some of them are waited for until the limit."""
    with ExitStack() as stack:
        strangers = {said: stack.enter_context(connect(listener.address)) for said in STRANGE}
        for said, stranger in strangers.items():
            stranger.sendall(said)
        assert [said for said, stranger in strangers.items() if not is_closed(stranger, TIMEOUT_SECONDS + 2)] == []
    assert_served(listener.address)


def test_a_byte_now_and_then_does_not_hold_a_connection(listener: Listener) -> None:
    begin = time.monotonic()
    with connect(listener.address) as stranger:
        for byte in b"LMH1" + bytes(32):
            try:
                stranger.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(TIMEOUT_SECONDS / 10)
        assert is_closed(stranger, 1.0)
    assert time.monotonic() - begin < 2 * TIMEOUT_SECONDS + 2


def test_a_producer_that_drips_is_not_waited_for() -> None:
    """The same for a reader."""
    with socket.create_server((HOST, 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                for _ in range(60):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        # One that waits until the other side has ended raises another error.
        with pytest.raises(StalledError, match="did not answer for 1 s"):
            call(ServerAddress(HOST, server.getsockname()[1], bytes(16)), 1.0, KEY)


class Failing:
    """A listening socket whose `accept` fails a few times."""

    def __init__(self, real: socket.socket, error: int, times: int) -> None:
        self._real, self._error, self.left = real, error, times

    def accept(self) -> Any:
        if self.left:
            self.left -= 1
            raise OSError(self._error, os.strerror(self._error))
        return self._real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize(
    "error",
    [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EIO],
    ids=errno.errorcode.get,
)
def test_an_accept_that_fails_is_tried_again(listener: Listener, error: int) -> None:
    failing = Failing(listener._socket, error, 3)
    listener._socket = failing  # type: ignore[assignment]
    assert_served(listener.address)
    assert failing.left == 0


def test_a_thread_that_cannot_start_costs_one_connection(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(listening.threading.Thread, "start", fail)
        with pytest.raises(LinkError):
            call(listener.address, TIMEOUT_SECONDS, KEY).receive()
    assert_served(listener.address)


def test_strangers_take_the_places_of_strangers(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_MAX_PENDING", 8)
    silent = [connect(listener.address) for _ in range(40)]
    assert_served(listener.address)
    assert len(listener._pending) <= 8
    assert is_closed(silent[0], 1.0)
    assert_served(listener.address)
    for connection in silent:
        connection.close()


def test_the_host_with_most_connections_loses_its_oldest(listener: Listener) -> None:
    def pending(host: str) -> Any:
        one, _ = socket.socketpair()
        return listening._Pending(one, host, time.monotonic() + 60, Examination(KEY, bytes(16)))

    honest, *flood = pending("10.0.0.1"), *(pending("10.0.0.2") for _ in range(3))
    listener._pending = dict.fromkeys((honest, *flood))
    listener._make_room()
    assert list(listener._pending) == [honest, *flood[1:]]
    listener._make_room()
    assert list(listener._pending) == [honest, flood[2]]


def test_few_descriptors_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, expected in ((256, 32), (1024, 64), (16, 4), (listening.resource.RLIM_INFINITY, 64)):
        monkeypatch.setattr(listening.resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert max_pending() == expected


PRODUCER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import torch
from latentmas_ray.authentication import RunKey
from latentmas_ray.transport.shared_memory.buffer_store import BufferStore
from latentmas_ray.transport.tcp.streams import StreamServer
store = BufferStore(is_shared=False, max_free_bytes=0)
token = store.put(torch.arange(100, dtype=torch.uint8)).token
server = StreamServer("127.0.0.1", store, 30.0, RunKey(b"k" * 32))
import json, threading
print(json.dumps([server.address.port, server.address.identity.hex(), token.hex()]), flush=True)
held = []
for line in sys.stdin:
    if line.startswith("take"):
        try:
            while True:
                held.append(open("/dev/null"))
        except OSError:
            print("taken", flush=True)
    if line.startswith("give"):
        for file in held:
            file.close()
        held.clear()
        print("given", flush=True)
    if line.startswith("count"):
        print(threading.active_count(), flush=True)
"""


def test_readers_are_served_in_a_flood_and_after_a_moment_without_descriptors() -> None:
    command = [sys.executable, "-c", PRODUCER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as producer:
        assert producer.stdin is not None
        assert producer.stdout is not None

        def ask(line: str) -> str:
            assert producer.stdin is not None
            assert producer.stdout is not None
            print(line, file=producer.stdin, flush=True)
            return producer.stdout.readline().strip()

        port, identity, token = json.loads(producer.stdout.readline())
        address = ServerAddress(HOST, port, bytes.fromhex(identity))

        def read() -> None:
            connection = StreamConnection(address, 20.0, KEY)
            target = torch.zeros(100, dtype=torch.uint8)
            connection.fetch(bytes.fromhex(token), target)
            assert torch.equal(target, torch.arange(100, dtype=torch.uint8))
            connection.close()

        try:
            flood = []
            for number in range(400):
                flood.append(connect(address))
                if number % 100 == 99:
                    read()
            assert int(ask("count")) < 60
            for connection in flood[:200]:
                connection.close()
            read()
            assert ask("take") == "taken"
            late = [connect(address) for _ in range(5)]  # in the system's queue
            time.sleep(0.3)
            assert ask("give") == "given"
            read()
            for connection in (*flood, *late):
                connection.close()
            read()
        finally:
            producer.kill()
