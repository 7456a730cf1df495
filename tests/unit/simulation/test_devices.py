"""Devices of simulated replicas."""

import pytest

from latentmas_ray.simulation.devices import Device


def test_work_alone_takes_its_time() -> None:
    device: Device[str] = Device()
    assert device.next_end is None
    device.start("a", 2.0, 1.0)
    assert device.next_end == 3.0
    assert device.take_ended(3.0) == ["a"]
    assert device.next_end is None


def test_work_at_the_same_time_shares_the_device_equally() -> None:
    device: Device[str] = Device()
    device.start("long", 10.0, 0.0)
    device.start("short", 1.0, 4.0)
    assert device.next_end == pytest.approx(6.0)
    assert device.take_ended(6.0) == ["short"]
    assert device.next_end == pytest.approx(11.0)
    assert device.take_ended(11.0) == ["long"]


def test_a_change_is_counted() -> None:
    """So that an end that was expected before it is not taken for one."""
    device: Device[str] = Device()
    device.start("a", 1.0, 0.0)
    before = device.num_changes
    device.start("b", 1.0, 0.5)
    assert device.num_changes > before
    assert device.take_ended(1.0) == []


def test_work_ends_at_any_time_of_a_long_run() -> None:
    """A clock of years cannot tell an end from a moment before it; the end comes nevertheless."""
    device: Device[int] = Device()
    now = 1e9
    for number in range(7):
        now += 0.7 * number
        device.start(number, 20.0 / (number + 3), now)
    ended = list[int]()
    for _ in range(20):
        if (end := device.next_end) is not None:
            ended += device.take_ended(end)
    assert sorted(ended) == list(range(7))
