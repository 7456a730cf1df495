"""Models and engines are made once for all numerics tests: they are not changed by using them."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from latentmas_ray.engine.engine import Engine
from latentmas_ray.models import LanguageModel
from latentmas_ray.writing import cache_room
from tests.numerics.families import FAMILIES, make_lm
from tests.numerics.written_cases import Case, make_cases, with_stops

MakeLM = Callable[..., LanguageModel]
MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """These models are so small that a second thread only costs time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def lm_of() -> MakeLM:
    """`lm_of(family, dtype)`"""

    @cache
    def make(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
        return make_lm(family, dtype)

    return make


@pytest.fixture(scope="session")
def engine_of(lm_of: MakeLM, tmp_path_factory: pytest.TempPathFactory) -> MakeEngine:
    """`engine_of(family, dtype)`: an engine of its own each time, so that no test sees another's cache."""
    folder: Path = tmp_path_factory.mktemp("realign")

    def make(family: str, dtype: torch.dtype = torch.float32) -> Engine:
        return Engine(lm_of(family, dtype), thoughts="realign", cache_dir=folder)

    return make


@pytest.fixture(params=FAMILIES)
def engine(request: pytest.FixtureRequest, engine_of: MakeEngine) -> Engine:
    """An fp32 engine of every family in turn."""
    return engine_of(request.param)


@pytest.fixture(scope="session")
def lm() -> LanguageModel:
    """One whose texts end at different steps."""
    return with_stops("qwen3")


@pytest.fixture(scope="session")
def cases(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Questions for engines that write continuously, and what the static batch answers."""
    return make_cases(lm, tmp_path_factory.mktemp("realign"))


@pytest.fixture(scope="module")
def small_steps() -> Iterator[None]:
    """Caches grow every few tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_room, "_SLOT_STEP_CPU", 8)
        patch.setattr(cache_room, "_GROWTH", 1.1)
        yield
