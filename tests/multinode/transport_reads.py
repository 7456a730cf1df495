"""A program of its own: a producer on another node, a reader on this one, through each transport; prints what they say.

It ends when the other node does.
"""

import json
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from latentmas_ray.transport import Gloo, SharedMemory, Tcp, Transport
from tests.ray.transport_peers import Case, Peer

BIG = Case(megabytes=32, dtype="bfloat16")
TIMEOUT_SECONDS = 3.0


def main() -> None:
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    here = ray.get_runtime_context().get_node_id()
    there = next(node["NodeID"] for node in ray.nodes() if node["NodeID"] != here)
    transports: dict[str, Transport] = {"gloo": Gloo(TIMEOUT_SECONDS), "shared_memory": SharedMemory()}
    producer, reader = (_start(transports, node) for node in (there, here))
    payload = producer.pack.remote(BIG)
    _say(ray.get(reader.read.remote(payload, BIG)))
    ray.get([peer.use.remote("shared_memory") for peer in (producer, reader)])
    _say(ray.get(reader.read.remote(ray.get(producer.pack.remote(Case())), Case())))
    ray.get(reader.use.remote("gloo"))
    print("reading", flush=True)
    _say(ray.get(reader.read_until_it_fails.remote(ray.get(payload), BIG, 60.0)))


def _start(transports: dict[str, Transport], node: str) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=strategy)(Peer).remote(transports, "gloo")


def _say(read: Any) -> None:
    print(json.dumps(read.__dict__), flush=True)


if __name__ == "__main__":
    main()
