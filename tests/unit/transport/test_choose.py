"""Which transport a run uses."""

from dataclasses import replace
from typing import get_args

import pytest

from latentmas_ray.config import ActorLink, TransportName
from latentmas_ray.errors import ConfigError
from latentmas_ray.transport import DeviceLayout, Transport, choose, find_available, make_transport
from latentmas_ray.transport.capabilities import Link
from latentmas_ray.transport.choose import IN_ONE_PROCESS, LinkTimes
from latentmas_ray.transport.make import TRANSPORTS

HERE = frozenset({"memfd", "gloo"})
GPU = HERE | {"nccl", "cuda"}
EVERYTHING = GPU | {"nixl"}
LOCAL = DeviceLayout(same_process=True, available=HERE)
ONE_NODE = DeviceLayout(available=HERE)
NODES = DeviceLayout(nodes="several", available=HERE)
OWN_GPUS = DeviceLayout(device="cuda", available=GPU)
ONE_GPU = DeviceLayout(device="cuda", gpus="one", available=GPU)
SHARED_GPUS = DeviceLayout(device="cuda", gpus="shared", available=GPU)
GPU_NODES = DeviceLayout(device="cuda", nodes="several", available=GPU)
GPU_NODES_NIXL = DeviceLayout(device="cuda", nodes="several", available=EVERYTHING)
BARE_GPUS = DeviceLayout(device="cuda")


NCCL_WITHIN = {"same_gpu": "cuda_ipc", "same_node": "nccl"}


@pytest.mark.parametrize(
    ("where", "chosen", "reason"),
    [
        (LOCAL, "loopback", "the best within one process"),
        (ONE_NODE, "shared_memory", "the best between actors on one node"),
        (
            DeviceLayout(),
            "object_store",
            "the best between actors on one node; shared_memory cannot be used here (Linux",
        ),
        (
            DeviceLayout(nodes="several"),
            {"same_node": "object_store", "cross_node": "tcp"},
            "between actors on one node object_store, the best; shared_memory cannot be used here (Linux 5.1",
        ),
        (NODES, "tcp", "between actors on one node tcp, which shares memory there; between nodes tcp, the best"),
        (ONE_GPU, "cuda_ipc", "the best between actors on one GPU"),
        (OWN_GPUS, "nccl", "the best between actors on one node"),
        (
            SHARED_GPUS,
            NCCL_WITHIN,
            "between actors on one GPU cuda_ipc, the best; between actors on one node nccl, the",
        ),
        (GPU_NODES_NIXL, {"same_node": "nccl", "cross_node": "nixl"}, "between nodes nixl, the best"),
        (
            DeviceLayout(device="cuda", gpus="shared", nodes="several", available=EVERYTHING),
            {**NCCL_WITHIN, "cross_node": "nixl"},
            "between actors on one GPU cuda_ipc, the best",
        ),
        (GPU_NODES, "nccl", "nixl cannot be used here (pip install 'latentmas-ray[nixl]')"),
        (BARE_GPUS, "object_store", "nccl cannot be used here (a GPU, and a torch with NCCL)"),
    ],
)
def test_auto_takes_the_best_of_each_link(
    where: DeviceLayout, chosen: str | dict[Link, TransportName], reason: str
) -> None:
    choice = choose("auto", where)
    assert choice.name == chosen or choice.names == chosen
    assert reason in choice.why


@pytest.mark.parametrize(
    ("asked", "where", "chosen"),
    [
        ({"cross_node": "object_store"}, NODES, {"same_node": "shared_memory", "cross_node": "object_store"}),
        ({"same_node": "object_store"}, NODES, {"same_node": "object_store", "cross_node": "tcp"}),
        ({"same_node": "shared_memory"}, NODES, {"same_node": "shared_memory", "cross_node": "tcp"}),
        ({"same_node": "tcp", "cross_node": "nccl"}, ONE_NODE, {"same_node": "tcp"}),  # there is no such link
        ({"same_gpu": "object_store"}, SHARED_GPUS, {"same_gpu": "object_store", "same_node": "nccl"}),
        ({"same_node": "auto", "cross_node": "tcp"}, GPU_NODES_NIXL, {"same_node": "nccl", "cross_node": "tcp"}),
    ],
)
def test_links_that_are_not_named_get_the_best(
    asked: dict[ActorLink, TransportName], where: DeviceLayout, chosen: dict[Link, TransportName]
) -> None:
    assert choose(asked, where).names == chosen


@pytest.mark.parametrize(
    ("times", "chosen", "reason"),
    [
        ((10.0, 7.5), "object_store", "the best measured here: 8 MB in 7.5 s, by tcp in 10 s"),
        ((10.0, 7.6), "tcp", "the best: 8 MB in 10 s, by object_store in 7.6 s"),
        ((1.0, 3.0), "tcp", "the best: 8 MB in 1 s, by object_store in 3 s"),
        (None, "tcp", "the best; it was not measured here: no actor answered"),
    ],
)
def test_between_nodes_the_order_is_measured(
    times: tuple[float, float] | None, chosen: TransportName, reason: str
) -> None:
    found = LinkTimes(failed="no actor answered")
    if times is not None:
        found = LinkTimes(num_bytes=8_000_000, seconds=dict(zip(("tcp", "object_store"), times, strict=True)))
    choice = choose("auto", replace(NODES, measure=lambda: found))
    same_node = "tcp" if chosen == "tcp" else "shared_memory"
    assert choice.names == {"same_node": same_node, "cross_node": chosen}
    assert f"between nodes {chosen}, {reason}" in choice.why
    assert "\n" not in choice.why


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ("tcp", NODES),
        ("object_store", NODES),
        ({"cross_node": "object_store"}, NODES),
        ("auto", ONE_NODE),
        ("auto", LOCAL),
        ("auto", GPU_NODES_NIXL),
    ],
)
def test_nothing_is_measured_where_that_decides_nothing(
    asked: TransportName | dict[ActorLink, TransportName], where: DeviceLayout
) -> None:
    def measure() -> LinkTimes:
        raise AssertionError("measured")

    assert choose(asked, replace(where, measure=measure)) == choose(asked, where)


def test_a_transport_of_one_link_is_refused_where_it_does_not_work() -> None:
    with pytest.raises(
        ConfigError, match="transport: got 'same_node=tcp,cross_node=shared_memory'; shared_memory does"
    ):
        choose({"same_node": "tcp", "cross_node": "shared_memory"}, NODES)
    with pytest.raises(ConfigError, match="within one process there are no links; use auto"):
        choose({"same_node": "tcp"}, LOCAL)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("loopback", LOCAL),
        ("object_store", LOCAL),
        ("object_store", GPU_NODES),
        ("shared_memory", ONE_NODE),
        ("shared_memory", ONE_GPU),
        ("tcp", NODES),
        ("tcp", ONE_NODE),
        ("gloo", NODES),
        ("gloo", SHARED_GPUS),
        ("nccl", OWN_GPUS),
        ("cuda_ipc", ONE_GPU),
        ("nixl", GPU_NODES_NIXL),
    ],
)
def test_what_is_asked_for_is_used(name: TransportName, where: DeviceLayout) -> None:
    assert choose(name, where).name == name


@pytest.mark.parametrize(
    ("name", "where", "message"),
    [
        ("loopback", ONE_NODE, "loopback does not work between actors on one node; use auto or object_store or"),
        ("gloo", LOCAL, "gloo does not work within one process; use auto or loopback or object_store"),
        ("shared_memory", NODES, "shared_memory does not work between nodes"),
        ("nccl", ONE_NODE, "nccl moves memory of cuda only, and the agents are on cpu"),
        ("nccl", ONE_GPU, "nccl does not work between actors on one GPU"),
        ("cuda_ipc", OWN_GPUS, "cuda_ipc does not work between actors on one node"),
        ("cuda_ipc", SHARED_GPUS, "cuda_ipc does not work between actors on one node"),
        ("nixl", NODES, "nixl cannot be used here (pip install 'latentmas-ray[nixl]')"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(name: TransportName, where: DeviceLayout, message: str) -> None:
    with pytest.raises(ConfigError, match="transport: got") as caught:
        choose(name, where)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in get_args(TransportName) if name != "auto"])
def test_every_name_has_its_transport_and_its_capabilities(name: TransportName) -> None:
    transport = make_transport(name)
    assert isinstance(transport, Transport)
    assert transport.name == name
    assert (transport.name in IN_ONE_PROCESS) == ("same_process" in transport.capabilities.links)


def test_what_is_available_is_what_transports_ask_for() -> None:
    assert find_available() <= {transport.capabilities.needs for transport in TRANSPORTS.values()}
