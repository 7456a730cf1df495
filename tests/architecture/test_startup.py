"""`latentmas --help` comes at once: nothing heavy is imported before a command needs it."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "ray", "transformers", "tokenizers", "accelerate", "numpy", "pandas", "datasets", "matplotlib"}

RUN = """
import contextlib, json, sys
from latentmas_ray.cli.main import run
sys.argv = ["latentmas", *json.loads(sys.argv[1])]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
    run()
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
# Everything up to the second floor, and placement, is data and rules: usable where torch is not installed.
IMPORT_LIGHT_FLOORS = """
import importlib, json, pkgutil, sys
import latentmas_ray
for name in ("errors", "env", "units", "config", "seeds", "topology", "tasks", "statistics", "placement"):
    module = importlib.import_module(f"latentmas_ray.{name}")
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{module.__name__}."):
        importlib.import_module(found.name)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def imported_by(program: str, *arguments: str) -> set[str]:
    """The top-level modules in memory after `program` ran in a process of its own."""
    command = [sys.executable, "-c", program, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("ask", "--help"), ("eval", "--help"), ("report", "--help"), ()]
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    imported = imported_by(RUN, *arguments)
    assert "typer" in imported
    assert imported & HEAVY == set()


def test_a_flag_that_is_wrong_is_told_before_anything_heavy_is_imported() -> None:
    assert imported_by(RUN, "eval", "--latent-steps", "-1") & HEAVY == set()


def test_configuration_topologies_and_tasks_need_no_torch() -> None:
    assert imported_by(IMPORT_LIGHT_FLOORS) & (HEAVY - {"numpy"}) == set()
