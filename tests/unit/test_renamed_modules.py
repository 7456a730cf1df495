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


def test_an_old_name_hides_nothing_of_its_package() -> None:
    program = (
        "from importlib import import_module; from latentmas_ray.renamed_modules import RENAMED_MODULES; "
        "parts = [name.rpartition('.') for name in RENAMED_MODULES]; "
        "print([name for package, _, name in parts if hasattr(import_module('latentmas_ray.' + package), name)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_old_module_of_grades_does_not_hide_the_function() -> None:
    program = (
        "import latentmas_ray.tasks.grade; from latentmas_ray.tasks.grade import answer_form; "
        "from latentmas_ray.tasks import grade; print(grade.__name__, answer_form.__name__, callable(grade))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "grade answer_form True\n"


def test_other_names_are_still_unknown() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module("latentmas_ray.tasks.no_such_module")


def test_a_new_process_finds_them_too() -> None:
    program = "from latentmas_ray.tasks.numbers import extract_number; print(extract_number('12'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "12\n"
