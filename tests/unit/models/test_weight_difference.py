"""Weights that are stored as a difference to another embedded model's, and the folder that is made of both."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentmas_ray.errors import ModelError
from latentmas_ray.models import weight_difference
from latentmas_ray.models.weight_difference import DIFFERENCE, WEIGHTS, decode, decoded_folder, encode

GENERATOR = torch.Generator().manual_seed(1)
BASE = {
    "matrix": torch.randn(6, 40, generator=GENERATOR).bfloat16(),
    "norm": torch.ones(8, dtype=torch.bfloat16),
    "other": torch.randn(3, 3, generator=GENERATOR).bfloat16(),
}
TRAINED = {
    "matrix": BASE["matrix"].float() + 0.05 * torch.randn(6, 40, generator=GENERATOR),
    "norm": torch.linspace(0.5, 2.0, 8),
}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """The folders of a base and of a difference, and a cache of their own."""
    base, other = tmp_path / "base", tmp_path / "other"
    base.mkdir()
    other.mkdir()
    save_file(BASE, base / WEIGHTS)
    (base / "config.json").write_text("{}")
    (base / "README.md").write_text("of the base")
    save_file(encode(BASE, TRAINED), other / DIFFERENCE)
    monkeypatch.setenv("LATENTMAS_CACHE_DIR", str(tmp_path / "cache"))
    decoded_folder.cache_clear()
    yield base, other
    decoded_folder.cache_clear()


def test_what_is_decoded_is_as_near_as_a_step_of_its_row() -> None:
    stored = encode(BASE, TRAINED)
    found = decode(BASE, stored)
    assert stored["matrix"].dtype == torch.int8
    assert {name: (one.shape, one.dtype) for name, one in found.items()} == {
        name: (one.shape, one.dtype) for name, one in BASE.items()
    }
    exact = BASE["matrix"].float() + stored["matrix.scale"] * stored["matrix"].float()
    step = (TRAINED["matrix"] - BASE["matrix"].float()).abs().amax(dim=1, keepdim=True) / 127
    assert ((exact - TRAINED["matrix"]).abs() <= 0.5001 * step).all()
    assert torch.equal(found["matrix"], exact.bfloat16())
    assert torch.equal(found["norm"], TRAINED["norm"].bfloat16())
    assert torch.equal(found["other"], BASE["other"])


def test_equal_weights_have_no_difference() -> None:
    found = decode(BASE, encode(BASE, BASE))
    assert all(torch.equal(found[name], tensor) for name, tensor in BASE.items())


@pytest.mark.parametrize("trained", [{"unknown": torch.zeros(2)}, {"norm": torch.zeros(9)}])
def test_only_tensors_of_the_base_have_a_difference(trained: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="no tensor of the base"):
        encode(BASE, trained)


def test_the_folder_is_made_once_and_has_the_base_s_files(folders: tuple[Path, Path]) -> None:
    base, other = folders
    made = decoded_folder("other", base, other)
    assert sorted(path.name for path in made.iterdir()) == ["config.json", WEIGHTS]
    wanted = decode(BASE, encode(BASE, TRAINED))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load_file(made / WEIGHTS).items())
    written = (made / WEIGHTS).stat().st_mtime_ns
    decoded_folder.cache_clear()
    assert decoded_folder("other", base, other) == made
    assert (made / WEIGHTS).stat().st_mtime_ns == written
    assert [path.name for path in made.parent.iterdir()] == [made.name], "nothing temporary is left"


def test_another_difference_has_another_folder(folders: tuple[Path, Path]) -> None:
    base, other = folders
    first = decoded_folder("other", base, other)
    save_file(encode(BASE, {"norm": torch.zeros(8)}), other / DIFFERENCE)
    decoded_folder.cache_clear()
    second = decoded_folder("other", base, other)
    assert first != second
    assert torch.equal(load_file(second / WEIGHTS)["norm"], torch.zeros(8, dtype=torch.bfloat16))


def test_without_a_cache_folder_it_is_a_temporary_one(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, other = folders
    (tmp_path / "cache").write_text("a file")
    made = decoded_folder("other", base, other)
    assert tmp_path / "cache" not in made.parents
    assert (made / WEIGHTS).is_file()
    assert "cannot be stored" in caplog.text
    shutil.rmtree(made)


def test_a_damaged_file_is_one_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, other = folders
    (other / DIFFERENCE).write_bytes((other / DIFFERENCE).read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged; install the package again"):
        decoded_folder("other", base, other)
    assert not list((tmp_path / "cache").iterdir())


def test_another_process_that_was_faster_is_no_error(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, other = folders
    made_by = weight_difference._made

    def slow(made: Path, name: str, base: Path, folder: Path) -> Path:
        found = made_by(made, name, base, folder)
        monkeypatch.setattr(weight_difference, "_made", made_by)
        decoded_folder.__wrapped__(name, base, folder)
        return found

    monkeypatch.setattr(weight_difference, "_made", slow)
    made = decoded_folder("other", base, other)
    assert [path.name for path in made.parent.iterdir()] == [made.name]
