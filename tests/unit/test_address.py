"""Forms of a cluster's address, in Python, flags and the environment."""

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.bench.transfer_settings import TransferBenchSettings
from latentmas_ray.cli.checks import Mark, cluster_check
from latentmas_ray.config.address import describe_other_service, split_address
from latentmas_ray.errors import ConfigError

BAD = {
    "ray://10.0.0.1:10001": "Ray Client is not supported",
    "RAY://head:10001": "Ray Client is not supported",
    "ray://head": "Ray Client is not supported",
    "http://head:8265": "the dashboard's address",
    "https://head.example:443/ray": "the dashboard's address",
    "grpc://head:6379": "has no scheme",
    "redis://head:6379": "has no scheme",
    "head": "it must be HOST:PORT",
    ":6379": "it must be HOST:PORT",
    "head/ray:6379": "it must be HOST:PORT",
    "head:": "its port must be a number from 1 to 65535",
    "head:0": "its port must be a number from 1 to 65535",
    "head:65536": "its port must be a number from 1 to 65535",
    "head:٦٣٧٩": "its port must be a number from 1 to 65535",
    "head:-1": "its port must be a number from 1 to 65535",
}


@pytest.mark.parametrize("address", BAD)
def test_a_bad_form_is_refused_where_it_is_given(address: str) -> None:
    with pytest.raises(ValueError, match=BAD[address]):
        split_address(address)
    with pytest.raises(ConfigError, match=f"address: got .*{BAD[address]}"):
        LatentMAS(address=address)
    with pytest.raises(ConfigError, match=f"address: got .*{BAD[address]}"):
        TransferBenchSettings(address=address)
    check = cluster_check(address)
    assert check.mark is Mark.FAIL
    assert BAD[address] in check.finding


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("auto", None),
        ("local", None),
        ("head:6379", ("head", 6379)),
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("[fe80::1]:6379", ("fe80::1", 6379)),
    ],
)
def test_a_good_form_is_split(address: str, parts: tuple[str, int] | None) -> None:
    assert split_address(address) == parts


def test_ports_of_other_services_of_ray_are_named() -> None:
    assert "port 8265 is usually the dashboard" in describe_other_service(8265)
    assert "port 10001 is usually Ray Client" in describe_other_service(10001)
    assert describe_other_service(6379).endswith("what listens is not Ray's head")
