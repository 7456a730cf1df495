"""Modules that were renamed. This version imports the old names too, with a warning; the next one does not.

To rename another module whose content keeps its names, add a row; its old name must not be a name of its package.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = __name__.rpartition(".")[0]
RENAMED_MODULES = {
    "models.accept": "models.compat",
    "models.realign": "models.thoughts.realign",
    "models.shapes": "models.presets",
    "models.tiny": "models.presets",
    "tasks.code": "tasks.grading.code",
    "tasks.code_record": "tasks.grading.code_record",
    "tasks.latex": "tasks.grading.latex",
    "tasks.numbers": "tasks.grading.number",
    "topology.spec": "topology.agent",
}


class _NewModule(Loader):
    """Loads the module of the new name in place of the old one."""

    def __init__(self, new: str) -> None:
        self._new = new
        self._own_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module of the new name."""
        warnings.warn(f"{spec.name} is now {self._new}", DeprecationWarning, stacklevel=2)
        module = import_module(self._new)
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Undo what the import system has written into the module: it has been executed under its own name."""
        module.__spec__ = self._own_spec


class RenamedModules(MetaPathFinder):
    """Finds modules of this package by their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec that loads the module of the new name; None for any other module."""
        package, _, name = fullname.partition(".")
        if package != _PACKAGE or name not in RENAMED_MODULES:
            return None
        return ModuleSpec(fullname, _NewModule(f"{_PACKAGE}.{RENAMED_MODULES[name]}"))


def find_renamed_modules() -> None:
    """Let Python's import system find the old names. Safe to call twice."""
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.append(RenamedModules())
