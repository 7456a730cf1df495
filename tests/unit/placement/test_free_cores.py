"""The cores that a process may use, and those that others leave free, from what Linux writes of them."""

from pathlib import Path

import pytest

from latentmas_ray.placement import free_cores
from latentmas_ray.placement.free_cores import CoreUse, FreeCores, find_free_cores, free_between, parse_use

STAT = """\
cpu  3000 400 500 9000 10 20 30 40 0 0
cpu0 1000 100 200 4000 5 10 10 20 0 0
cpu1 2000 300 300 5000 5 10 20 20 0 0
intr 12345
"""


def test_the_use_of_the_process_s_own_cores_counts() -> None:
    def seconds(*cores: int, is_niced: bool = False) -> float:
        return parse_use(STAT, frozenset(cores), ticks_per_second=100, is_niced=is_niced)

    assert seconds(0) == pytest.approx((1000 + 200 + 10 + 10 + 20) / 100)
    assert seconds(0, 1) == pytest.approx(seconds(0) + (2000 + 300 + 10 + 20 + 20) / 100)
    # What has a low priority gives its core to us, unless ours is low too.
    assert seconds(0, is_niced=True) == pytest.approx(seconds(0) + 1.0)


@pytest.mark.parametrize(
    ("all_seconds", "own_seconds", "free"),
    [(0.0, 0.0, 2.0), (0.2, 0.2, 2.0), (0.2, 0.0, 1.0), (0.4, 0.0, 0.0), (0.9, 0.0, 0.0), (0.0, 0.1, 2.0)],
)
def test_what_this_process_uses_is_free_for_it(all_seconds: float, own_seconds: float, free: float) -> None:
    before = CoreUse(at=10.0, all_seconds=50.0, own_seconds=5.0)
    after = CoreUse(at=10.2, all_seconds=50.0 + all_seconds, own_seconds=5.0 + own_seconds)
    assert free_between(before, after, 2) == pytest.approx(free)


@pytest.mark.parametrize(
    ("usable", "free", "threads"),
    [(2.0, 2.0, 2), (2.0, 1.6, 2), (2.0, 1.4, 1), (2.0, 0.0, 1), (0.5, 0.5, 1), (1.5, 1.5, 1), (64.0, 30.4, 30)],
)
def test_each_thread_gets_a_core(usable: float, free: float, threads: int) -> None:
    assert FreeCores(usable=usable, free=free).num_threads == threads


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        # The limit of a group above counts too.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "9:memory:/x\n4:cpu,cpuacct:/x\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "not what it should be\n0::/\n", "sys/fs/cgroup/cpu.max": "none\n"}, None),
        ({}, None),
    ],
)
def test_quotas_of_control_groups(files: dict[str, str], cores: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_cores._quota(tmp_path) == cores


def test_here_they_are_measured() -> None:
    found = find_free_cores(0.05)
    assert 0.0 <= found.free <= found.usable
    assert 1 <= found.num_threads <= max(1, found.usable)


def test_where_the_system_does_not_count_the_load_average_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(free_cores, "_STAT", tmp_path / "nothing")
    monkeypatch.setattr(free_cores, "_quota", lambda root: None)
    monkeypatch.setattr(free_cores, "usable_cores", lambda: frozenset(range(8)))
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("os.getloadavg", lambda: (11.0, 0.0, 0.0))
    assert find_free_cores() == FreeCores(usable=8.0, free=5.0)
