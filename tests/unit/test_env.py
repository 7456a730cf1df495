"""Environment variables: defaults, and one clear error for each bad value."""

import os
from pathlib import Path

import pytest

from latentmas_ray.env import prepare_vllm, read_environment
from latentmas_ray.errors import ConfigError

OURS = (
    "LATENTMAS_API_KEYS",
    "LATENTMAS_CACHE_DIR",
    "LATENTMAS_TORCH_THREADS",
    "LATENTMAS_REQUIRE",
    "RAY_ADDRESS",
    "XDG_CACHE_HOME",
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")


def test_defaults() -> None:
    environment = read_environment()
    assert environment.cache_dir == Path("/home/someone/.cache/latentmas_ray")
    assert environment.ray_address is None
    assert environment.torch_threads is None
    assert environment.require == frozenset()


@pytest.mark.parametrize(
    ("name", "value", "cache_dir"),
    [
        ("LATENTMAS_CACHE_DIR", "/data/cache", "/data/cache"),
        ("LATENTMAS_CACHE_DIR", "~/cache", "/home/someone/cache"),
        ("LATENTMAS_CACHE_DIR", "", "/home/someone/.cache/latentmas_ray"),
        ("XDG_CACHE_HOME", "/data", "/data/latentmas_ray"),
        ("XDG_CACHE_HOME", "relative", "/home/someone/.cache/latentmas_ray"),
    ],
)
def test_cache_folder(monkeypatch: pytest.MonkeyPatch, name: str, value: str, cache_dir: str) -> None:
    monkeypatch.setenv(name, value)
    assert read_environment().cache_dir == Path(cache_dir)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigError, match="LATENTMAS_CACHE_DIR"):
        read_environment()
    monkeypatch.setenv("LATENTMAS_CACHE_DIR", "/data/cache")
    assert read_environment().cache_dir == Path("/data/cache")


def test_ray_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert read_environment().ray_address == "10.0.0.1:6379"


def test_torch_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTMAS_TORCH_THREADS", "8")
    assert read_environment().torch_threads == 8


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "٢", "5000", "9" * 5000])
def test_bad_torch_threads_are_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LATENTMAS_TORCH_THREADS", value)
    with pytest.raises(ConfigError, match=r"^LATENTMAS_TORCH_THREADS: got .* from 1 to 4096$"):
        read_environment()


@pytest.mark.parametrize(
    ("value", "hardware"),
    [("", set()), ("gpu", {"gpu"}), ("multinode,slow", {"slow", "multinode"}), (" gpu , ", {"gpu"})],
)
def test_required_hardware(monkeypatch: pytest.MonkeyPatch, value: str, hardware: set[str]) -> None:
    monkeypatch.setenv("LATENTMAS_REQUIRE", value)
    assert read_environment().require == hardware


def test_unknown_required_hardware_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTMAS_REQUIRE", "gpu,tpu")
    with pytest.raises(
        ConfigError,
        match=r"LATENTMAS_REQUIRE: got 'gpu,tpu'; .* browser, clients, gpu, multinode, real, serve, slow, vllm",
    ):
        read_environment()


def test_vllm_computes_with_the_runner_that_our_sampler_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    prepare_vllm()
    assert os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert os.environ["VLLM_LOGGING_LEVEL"] == "x"
