"""What a peer of the run may say to a producer: a wrong field ends its connection, and nothing else."""

import threading
from typing import Any

import pytest
import torch

from latentmas_ray.authentication import RunKey
from latentmas_ray.errors import LinkError
from latentmas_ray.transport.listener import call
from latentmas_ray.transport.shared_memory.buffer_store import BufferStore
from latentmas_ray.transport.tcp.streams import StreamConnection, StreamServer

HOST, TIMEOUT_SECONDS = "127.0.0.1", 2.0
KEY = RunKey(b"k" * 32)


@pytest.mark.parametrize(
    "request_",
    [
        {"copied": [1]},
        {"copied": b"x", "address": 7},
        {"copied": b"x", "address": {}},
        {
            "copied": b"x",
            "address": {"machine": "m", "pid": "../tmp/x", "fd": 0, "inode": 1, "token": b"", "num_bytes": 1},
        },
        {"copied": b"x", "address": {"machine": "m", "pid": -1, "fd": 0, "inode": 1, "token": b"", "num_bytes": 1}},
        {"copied": b"x", "address": {"machine": "m", "pid": 1, "fd": 1.0, "inode": 1, "token": b"", "num_bytes": 1}},
        {"copied": b"x", "address": {"machine": 3, "pid": 1, "fd": 1, "inode": 1, "token": b"", "num_bytes": 1}},
        {"copied": b"x", "address": {"machine": "m", "pid": True, "fd": 1, "inode": 1, "token": b"", "num_bytes": 1}},
        {"copied": b"x", "address": {"machine": "m", "pid": 1, "fd": 1, "inode": 1, "token": "t", "num_bytes": 1}},
        {"copied": None},
        {"buffer": "text"},
        {"buffer": b"T", "machine": 7},
        {"buffer": b"T", "first": -1, "count": 1},
        {"buffer": b"T", "first": 0, "count": -1},
        {"buffer": b"T", "first": 0.0, "count": 1},
        {"buffer": b"T", "first": True, "count": 1},
        {"buffer": b"T", "first": 0, "count": 101},
        {"buffer": b"T", "first": 2**63, "count": 1},
        {"buffer": b"T", "first": [0], "count": {}},
        {"buffer": b"T"},
        {},
        {"what": "else"},
    ],
    ids=str,
)
def test_a_message_with_a_wrong_field_ends_its_connection_quietly(
    request_: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", crashed.append)
    store = BufferStore(is_shared=False, max_free_bytes=0)
    token = store.put(torch.ones(100, dtype=torch.uint8)).token
    server = StreamServer(HOST, store, TIMEOUT_SECONDS, KEY)
    asked = {name: token if value == b"T" else value for name, value in request_.items()}
    channel = call(server.address, TIMEOUT_SECONDS, KEY)
    channel.send(**asked)
    with pytest.raises(LinkError):
        channel.receive()
    channel.close()
    connection = StreamConnection(server.address, TIMEOUT_SECONDS, KEY)
    connection.fetch(token, torch.zeros(100, dtype=torch.uint8))
    connection.close()
    server.close()
    assert not crashed
