"""What is decided and said while vLLM is loaded, without vLLM."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import BaseModel, Field, ValidationError, model_validator

from latentmas_ray.errors import ModelError
from latentmas_ray.vllm import load, reference
from latentmas_ray.vllm.load import computes_on_cpu, reason_of
from tests.cases.memory import SPEC


class Settings(BaseModel):
    """Like a configuration of vLLM."""

    max_num_seqs: int = Field(default=1, ge=1)
    is_consistent: bool = True

    @model_validator(mode="after")
    def check(self) -> "Settings":
        if not self.is_consistent:
            raise ValueError("the parts must fit\nand much more")
        return self


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs: Input should be greater than or equal to 1"),
        ({"is_consistent": False}, "the parts must fit"),
    ],
)
def test_errors_of_pydantic_keep_their_cause(values: dict[str, Any], expected: str) -> None:
    """Their first line only counts."""
    with pytest.raises(ValidationError) as caught:
        Settings(**values)
    assert str(caught.value).startswith("1 validation error for Settings\n")
    assert reason_of(caught.value) == expected


def test_a_model_with_windows_is_refused_before_vllm_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    window = replace(SPEC.layers[0], window=128)
    spec = replace(SPEC, layers=(SPEC.layers[0], window))
    monkeypatch.setattr(load, "require_vllm", lambda: None)
    monkeypatch.setattr(load, "prepare_vllm", lambda: None)
    monkeypatch.setattr(reference, "make_reference", lambda *args, **more: SimpleNamespace(spec=spec))
    with pytest.raises(ModelError, match=r"layer 1 has a sliding window of 128 positions: use engine transformers"):
        load.load_text_engine("m")


def test_other_errors_are_their_first_line() -> None:
    assert reason_of(RuntimeError("no blocks\nadvice")) == "no blocks"


@pytest.mark.parametrize("is_cpu", [True, False])
def test_the_build_decides_where_vllm_computes(is_cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build for CPUs leaves the GPU of a machine alone."""
    monkeypatch.setattr(load, "require_vllm", lambda: None)
    monkeypatch.setattr(load, "prepare_vllm", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: is_cpu))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(platforms=platforms))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    assert computes_on_cpu() == is_cpu
