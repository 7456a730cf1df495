"""Realignment is the ridge regression it says it is, and its file is a cache: never trusted, never required."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.models import LanguageModel
from latentmas_ray.models.thoughts import make_rule
from latentmas_ray.models.thoughts import realign as realign_module
from latentmas_ray.models.thoughts.realign import RIDGE, Realignment, load_or_solve, mean_norm, solve
from tests.numerics.conftest import MakeLM


def realignment(lm: LanguageModel, thoughts: str, cache_dir: Path) -> Realignment:
    rule = make_rule(lm, thoughts, cache_dir=cache_dir)
    assert isinstance(rule, Realignment)
    return rule


def matrices() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(200, 16, generator=generator), torch.randn(200, 16, generator=generator)


def test_the_matrix_minimises_the_ridge_regression() -> None:
    output, inputs = matrices()
    out, into = output.double(), inputs.double()
    # The same minimum by another way: least squares of the matrix with sqrt(λ)·I below it.
    padded = torch.cat([out, RIDGE**0.5 * torch.eye(16, dtype=torch.float64)])
    target = torch.cat([into, torch.zeros(16, 16, dtype=torch.float64)])
    expected = torch.linalg.lstsq(padded, target).solution
    torch.testing.assert_close(solve(output, inputs).double(), expected, atol=1e-6, rtol=0)


def test_large_vocabularies_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, norm = solve(*matrices()), mean_norm(matrices()[0])
    monkeypatch.setattr(realign_module, "_CHUNK", 7)
    torch.testing.assert_close(solve(*matrices()), whole)
    assert mean_norm(matrices()[0]) == pytest.approx(norm)


def test_equal_embeddings_give_the_identity() -> None:
    output, _ = matrices()
    torch.testing.assert_close(solve(output, output), torch.eye(16), atol=1e-6, rtol=0)


@pytest.mark.parametrize("matrix", [None, torch.randn(16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thoughts_have_the_mean_norm_of_input_embeddings(matrix: Tensor | None, dtype: torch.dtype) -> None:
    hidden = torch.randn(5, 16).to(dtype)
    thoughts = Realignment(matrix, 0.7)(hidden)
    assert thoughts.dtype == torch.float32
    torch.testing.assert_close(thoughts.norm(dim=-1), torch.full((5,), 0.7))
    direction = hidden.float() if matrix is None else hidden.float() @ matrix
    torch.testing.assert_close(torch.cosine_similarity(thoughts, direction), torch.ones(5))


@pytest.mark.parametrize("beta", [0.5, 2.0, 8.0, 0.1, 3.0])
def test_a_factor_before_the_matrix_changes_no_thought(beta: float) -> None:
    """Thoughts are rescaled, so the later β · W_a of the paper feeds what W_a alone feeds."""
    hidden, matrix = torch.randn(5, 16), torch.randn(16, 16)
    once, scaled = (Realignment(factor * matrix, 0.7)(hidden) for factor in (1.0, beta))
    if beta in (0.5, 2.0, 8.0):  # a power of two loses no bit
        assert torch.equal(scaled, once)
    torch.testing.assert_close(scaled, once, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(*(Realignment(factor * matrix, 0.7, rescales=False)(hidden) for factor in (1.0, beta)))


def test_a_hidden_state_of_zeros_stays_finite() -> None:
    assert Realignment(None, 0.7)(torch.zeros(1, 16)).isfinite().all()


@pytest.mark.parametrize("family", ["qwen3", "neox", "llama"])
def test_an_untied_model_is_realigned_by_its_own_embeddings(family: str, lm_of: MakeLM, tmp_path: Path) -> None:
    lm = lm_of(family)
    output, inputs = lm.model.get_output_embeddings().weight, lm.model.get_input_embeddings().weight
    realign = realignment(lm, "realign", tmp_path)
    assert realign.matrix_EE is not None
    torch.testing.assert_close(realign.matrix_EE, solve(output, inputs))
    assert realign.target_norm == pytest.approx(float(inputs.norm(dim=-1).mean()))
    assert realignment(lm, "identity", tmp_path).matrix_EE is None


@pytest.mark.parametrize("family", ["qwen3-tied", "qwen2", "gemma3"])
def test_a_tied_model_needs_only_the_norm(family: str, lm_of: MakeLM, tmp_path: Path) -> None:
    lm = lm_of(family)
    realign = realignment(lm, "realign", tmp_path)
    assert realign.matrix_EE is None
    fed = lm.model.get_input_embeddings()(torch.arange(259))
    assert realign.target_norm == pytest.approx(float(fed.norm(dim=-1).mean()), rel=1e-5)
    assert list(tmp_path.iterdir()) == []


def test_the_second_engine_reads_what_the_first_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_or_solve(*matrices(), tmp_path / "cache", "r1")
    (kept,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(realign_module, "solve", lambda *_: pytest.fail("it was computed again"))
    assert torch.equal(load_or_solve(*matrices(), tmp_path / "cache", "r1"), first)
    assert torch.equal(load_file(kept)["matrix"], first)


def test_the_run_that_computes_the_matrix_thinks_what_later_ones_do(tmp_path: Path) -> None:
    """To the last bit: a greedy answer may hang on it."""
    hidden = torch.randn(8, matrices()[0].shape[1], generator=torch.Generator().manual_seed(0))
    computed, loaded = (Realignment(load_or_solve(*matrices(), tmp_path, "r1"), 1.0) for _ in range(2))
    assert torch.equal(computed(hidden), loaded(hidden))
    # Not only where the values happen to round alike.
    assert computed.matrix_EE is not None
    assert loaded.matrix_EE is not None
    assert computed.matrix_EE.stride() == loaded.matrix_EE.stride()


def test_every_model_has_a_file_of_its_own(lm_of: MakeLM, tmp_path: Path) -> None:
    for family in ("qwen3", "llama", "mistral"):
        Engine(lm_of(family), thoughts="realign", cache_dir=tmp_path)
    # Llama and Mistral have the same weights here, and so the same matrix.
    assert len(list(tmp_path.iterdir())) == 2


DAMAGED = {
    "empty": b"",
    "garbage": b"garbage" * 100,
    "other tensor": {"other": torch.zeros(16, 16)},
    "other shape": {"matrix": torch.zeros(4, 16)},
    "not numbers": {"matrix": torch.full((16, 16), torch.nan)},
    "other dtype": {"matrix": torch.zeros(16, 16, dtype=torch.int64)},
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_made_again(
    content: bytes | dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "realign-r1.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_file(content, path)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(load_or_solve(*matrices(), tmp_path, "r1"), solve(*matrices()))
    assert "computing it again" in caplog.text
    assert torch.equal(load_file(path)["matrix"], solve(*matrices()))
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("folder", ["/proc/none/cache", "/proc", "/dev/null", "/dev/null/cache"])
def test_a_folder_that_cannot_be_written_is_no_obstacle(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert torch.equal(load_or_solve(*matrices(), Path(folder), "r1"), solve(*matrices()))
    assert "cannot be" in caplog.text


def test_a_folder_in_place_of_the_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "realign-r1.safetensors").mkdir()
    assert torch.equal(load_or_solve(*matrices(), tmp_path, "r1"), solve(*matrices()))
    assert [one.name for one in tmp_path.iterdir()] == ["realign-r1.safetensors"]
