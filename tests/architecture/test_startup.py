"""`latentmas --help` comes at once, and so do mistakes and actors: nothing heavy is imported before it is needed."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "ray",
    "transformers",
    "tokenizers",
    "accelerate",
    "numpy",
    "scipy",
    "pandas",
    "datasets",
    "matplotlib",
}

RUN = """
import contextlib, json, sys
from latentmas_ray.cli.main import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
    main(json.loads(sys.argv[1]))
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
# Several command lines: what all of them import is imported once, and each goes on in a process of its own.
RUN_EACH = """
import contextlib, json, os, sys
from latentmas_ray.cli.main import run
for arguments in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:
        sys.argv = ["latentmas", *arguments]
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
            run()
        print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
# Everything up to the second floor, and placement, is data and rules: usable where torch is not installed.
IMPORT_LIGHT_FLOORS = """
import importlib, json, pkgutil, sys
import latentmas_ray
for name in ("errors", "env", "units", "config", "seeds", "topology", "tasks", "voting", "stats", "placement"):
    module = importlib.import_module(f"latentmas_ray.{name}")
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{module.__name__}."):
        importlib.import_module(found.name)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
# All that an actor imports before it loads a model, and all that a driver of actors does. Without garbage collections:
# one of everything that torch and Ray have made is a tenth of their own seconds, and falls where it happens to.
IMPORT_ACTORS = """
import gc, json, sys, time
gc.disable()
import torch, ray
needed = time.process_time()
import latentmas_ray.actors.agent_actor, latentmas_ray.actors.rank_actor, latentmas_ray.actors.ray_runtime
import latentmas_ray.actors.local_runtime, latentmas_ray.actors.metrics, latentmas_ray.engine.load, latentmas_ray.system
print(time.process_time() / needed)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
MAX_SHARE = 1.32  # 1.24 on a quiet machine
ATTEMPTS = 3  # another program may have taken the processor's caches meanwhile


def imported_by(program: str, *arguments: str) -> set[str]:
    """The top-level modules in memory after `program` ran in a process of its own."""
    return set(json.loads(printed_by(program, *arguments)[-1]))


def printed_by(program: str, *arguments: str | tuple[str, ...]) -> list[str]:
    command = [sys.executable, "-c", program, json.dumps(arguments)]
    # With compiled modules, as in a user's process: compiling them takes longer than the imports.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


HELP = (("--help",), ("--version",), ("ask", "--help"), ("eval", "--help"), ("report", "--help"), ())
WRONG_FLAG = ("eval", "--latent-steps", "-1")
MISTAKES = (
    ("eval", "--task", "mistyped"),
    ("ask", "What is 6 times 7?", "--topology", "mistyped"),
    ("ask", "What is 6 times 7?", "--model", "./mistyped", "--runtime", "ray"),
    ("ask", "What is 6 times 7?", "--runtime", "ray", "--transport", "loopback"),
)
Imported = dict[tuple[str, ...], set[str]]  # the top-level modules in memory after each command line


@pytest.fixture(scope="module")
def imported() -> Imported:
    lines = (*HELP, WRONG_FLAG, *MISTAKES)
    printed = printed_by(RUN_EACH, *lines)
    assert len(printed) == len(lines)
    return {line: set(json.loads(modules)) for line, modules in zip(lines, printed, strict=True)}


@pytest.mark.parametrize("arguments", HELP)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...], imported: Imported) -> None:
    assert "typer" in imported[arguments]
    assert imported[arguments] & HEAVY == set()


def test_a_flag_that_is_wrong_is_told_before_anything_heavy_is_imported(imported: Imported) -> None:
    assert imported[WRONG_FLAG] & HEAVY == set()


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_told_before_torch_or_ray_is_imported(arguments: tuple[str, ...], imported: Imported) -> None:
    assert imported[arguments] & (HEAVY - {"numpy"}) == set()


def test_actors_need_little_more_than_torch_and_ray_before_a_model_is_loaded() -> None:
    shares = []
    for _ in range(ATTEMPTS):
        share, modules = printed_by(IMPORT_ACTORS)
        assert set(json.loads(modules)) & (HEAVY - {"torch", "ray", "numpy"}) == set()
        shares.append(float(share))
        if shares[-1] <= MAX_SHARE:
            break
    assert min(shares) <= MAX_SHARE, f"CPU seconds of the imports, as a multiple of torch's and Ray's: {shares}"


def test_configuration_topologies_and_tasks_need_no_torch() -> None:
    assert imported_by(IMPORT_LIGHT_FLOORS) & HEAVY == set()
