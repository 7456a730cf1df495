"""A program of its own: a producer on another node, a reader on this one, through each transport; prints what they say.

It ends when the other node does.
"""

import json
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from latentmas_ray.authentication import RunKey
from latentmas_ray.transport import Gloo, SharedMemory, Tcp, Transport
from tests.ray.transport_peers import Case, Peer

BIG = Case(megabytes=32, dtype="bfloat16")
TIMEOUT_SECONDS = 3.0


def main() -> None:
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    here = ray.get_runtime_context().get_node_id()
    there = next(node["NodeID"] for node in ray.nodes() if node["NodeID"] != here)
    transports: dict[str, Transport] = {
        "shared_memory": SharedMemory(),
        "gloo": Gloo(TIMEOUT_SECONDS),
        "tcp": Tcp(TIMEOUT_SECONDS),
    }
    key = RunKey.generate()
    producer, *readers = (_start(transports, node, key) for node in (there, here, here))
    _say(ray.get(readers[0].read.remote(ray.get(producer.pack.remote(Case())), Case())))
    packed = []
    for name, reader in zip(("gloo", "tcp"), readers, strict=True):
        ray.get([peer.use.remote(name) for peer in (producer, *readers)])
        payload = producer.pack.remote(BIG)
        for each in readers:
            _say(ray.get(each.read.remote(payload, BIG)))
        ray.get([each.release.remote(payload) for each in readers])
        packed.append((reader, name, ray.get(payload)))
    for reader, name, _ in packed:
        ray.get(reader.use.remote(name))
    print("reading", flush=True)
    reading = [reader.read_until_it_fails.remote(payload, BIG, 60.0) for reader, _, payload in packed]
    for read in ray.get(reading):
        _say(read)


def _start(transports: dict[str, Transport], node: str, key: RunKey) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=strategy)(Peer).remote(transports, "shared_memory", key)


def _say(read: Any) -> None:
    print(json.dumps(read.__dict__), flush=True)


if __name__ == "__main__":
    main()
