"""Published figures of hardware."""

import pytest

from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.prediction.hardware import HARDWARE, hardware_named, hardware_of_device


def test_every_figure_has_a_source_and_a_size_that_is_possible() -> None:
    for name, one in HARDWARE.items():
        assert one.name == name
        assert one.source
        assert 1e11 < one.bytes_per_second < 1e13
        assert one.peak_flops["float32"] <= one.peak_flops["bfloat16"]


@pytest.mark.parametrize(
    ("name", "link", "milliseconds"),
    [("h100", "nvlink", 0.3), ("h100", "pcie", 2.2), ("h100", "network", 0.344), ("l40s", "network", 11.0)],
)
def test_a_memory_of_840_tokens_of_14b_takes_what_its_link_allows(name: str, link: str, milliseconds: float) -> None:
    speed = getattr(hardware_named(name).link_speeds(), link)
    assert 840 * 160 * 1024 / speed * 1e3 == pytest.approx(milliseconds, rel=0.05)


def test_links_that_hardware_lacks_are_none() -> None:
    assert hardware_named("l40s").link_speeds().nvlink is None
    assert hardware_named("L40S ") is HARDWARE["l40s"]


def test_unknown_hardware_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"h300.*a100-40gb, a100-80gb, h100, h200, l40s, cpu"):
        hardware_named("h300")


@pytest.mark.parametrize(
    ("device", "gigabytes", "name"),
    [
        ("NVIDIA H100 80GB HBM3", 85.0, "h100"),
        ("NVIDIA A100-SXM4-80GB", 85.1, "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", 42.3, "a100-40gb"),
        ("NVIDIA H200", 150.0, "h200"),
        ("NVIDIA L40S", 47.6, "l40s"),
        ("NVIDIA H100 PCIe", 85.0, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10.0, None),
        ("NVIDIA L40", 47.6, None),
    ],
)
def test_a_device_is_known_by_its_name_and_size(device: str, gigabytes: float, name: str | None) -> None:
    found = hardware_of_device(device, int(gigabytes * 1e9))
    assert (found and found.name) == name


def test_a_processor_is_divided_by_cores_and_a_gpu_is_not() -> None:
    cpu = hardware_named("cpu")
    assert cpu.of_cores(28).bytes_per_second == cpu.bytes_per_second / 2
    assert cpu.of_cores(28).peak_flops["float32"] == cpu.peak_flops["float32"] / 2
    assert cpu.of_cores(100) is cpu
    assert hardware_named("h100").of_cores(2) is HARDWARE["h100"]
