"""Old names of modules lead to the new ones."""

import subprocess
import sys
from importlib import import_module

import pytest

from latentmas_ray.renamed_modules import RENAMED_MODULES


@pytest.mark.parametrize("old", RENAMED_MODULES)
def test_an_old_name_is_the_new_module_with_a_warning(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"latentmas_ray.{old}", raising=False)
    new = import_module(f"latentmas_ray.{RENAMED_MODULES[old]}")
    spec = new.__spec__
    with pytest.warns(DeprecationWarning, match=rf"{old} is now latentmas_ray\.{RENAMED_MODULES[old]}"):
        assert import_module(f"latentmas_ray.{old}") is new
    assert new.__spec__ is spec
    assert new.__name__ == f"latentmas_ray.{RENAMED_MODULES[old]}"
    monkeypatch.delitem(sys.modules, f"latentmas_ray.{old}")


def test_other_names_are_still_unknown() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module("latentmas_ray.tasks.no_such_module")


def test_a_new_process_finds_them_too() -> None:
    program = "from latentmas_ray.tasks.numbers import extract_number; print(extract_number('12'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "12\n"
