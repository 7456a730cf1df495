"""Imports go strictly down, and each big library is imported in its own rooms only."""

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.architecture.source import PACKAGE, Source, sources

FLOORS = (
    {"errors", "env", "units", "paths", "patterns", "renamed_modules", "sandbox"},
    {"authentication", "config", "expected", "seeds", "topology", "tasks", "voting", "stats"},
    {"memory", "placement"},
    {"parallel"},
    {"models", "transport"},
    {"engine"},
    {"writing"},
    {"vllm"},
    {"runs"},
    {"scheduler"},
    {"actors"},
    {"system", "bench", "report", "simulation", "serve", ""},  # "" is latentmas_ray/__init__.py, the public face
    {"cli", "__main__"},
)
FLOOR_OF = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}

# (importer, imported) on one floor, and why that is no tangle.
SAME_FLOOR = {
    ("env", "errors"): "a bad variable is a ConfigError; errors imports nothing",
    ("env", "paths"): "the cache folder may begin with ~; paths imports errors alone",
    ("paths", "errors"): "an unknown user is a ConfigError; errors imports nothing",
    ("sandbox", "errors"): "a machine that cannot confine a program is a SandboxError; errors imports nothing",
    ("config", "expected"): "what would be right instead of a bad value; expected imports nothing of ours",
    ("config", "voting"): "the names of the rules; `voting.rules` imports errors alone",
    ("topology", "config"): "the forms of a number of latent steps; config knows no topology",
    ("topology", "tasks"): "a prompt is filled in from a question's record; tasks knows no topology",
    ("tasks", "config"): "which model was trained for some of them; config knows no tasks",
    ("voting", "tasks"): "open answers are one vote where the grader finds them equal; tasks knows no voting",
    ("", "system"): "the face offers LatentMAS; nothing imports the face but the command line",
    ("", "report"): "the face offers load_run, which reads a finished run",
    ("__main__", "cli"): "python -m latentmas_ray is the command; nothing imports it",
    ("serve", "system"): "an endpoint asks a fleet; nothing imports serve but the command line",
    ("bench", "system"): "a benchmark measures a whole run",
    ("simulation", "bench"): "a simulation is run, named and drawn like a benchmark; bench knows no simulation",
    ("bench", "report"): "labels of lines are moved apart in the same way; report knows no benchmark",
}

# library -> the places that may import it; everywhere else it is behind an interface of our own.
ROOMS = {
    "ray": ("transport", "actors", "system", "serve"),
    "transformers": ("models",),
    "vllm": ("vllm",),
    "fastapi": ("serve",),
    "starlette": ("serve",),
    "uvicorn": ("serve",),
    "prometheus_client": ("serve",),
    "mcp": ("serve",),
    "torch": (
        "memory",
        "parallel",
        "models",
        "transport",
        "engine",
        "writing",
        "vllm",
        "actors",
        "system",
        "bench",
        "report",
        "cli",
    ),
}
VAGUE = {"utils", "util", "common", "misc", "helpers"}


def inner_imports(source: Source) -> Iterator[tuple[int, str]]:
    """(line, unit) of each import from the package itself."""
    for found in source.imports:
        if found.module.split(".")[0] == PACKAGE:
            unit = found.module.split(".")[1] if "." in found.module else ""
            # A name that is no unit is an attribute of the public face.
            yield found.line, unit if unit in FLOOR_OF else ""


def violations(source: Source) -> Iterator[str]:
    own = source.unit
    for line, unit in inner_imports(source):
        if unit != own and FLOOR_OF[unit] >= FLOOR_OF[own] and (own, unit) not in SAME_FLOOR:
            yield f"{source.name}:{line} imports {unit or PACKAGE} (floor {FLOOR_OF[unit]}) from floor {FLOOR_OF[own]}"


def test_every_part_of_the_package_has_a_floor() -> None:
    homeless = {source.name for source in sources(PACKAGE) if source.unit not in FLOOR_OF}
    assert not homeless, f"give them a floor in {__file__}: {sorted(homeless)}"


def test_imports_go_strictly_down() -> None:
    assert [line for source in sources(PACKAGE) for line in violations(source)] == []


def test_exceptions_are_between_neighbours_and_one_way() -> None:
    for importer, imported in SAME_FLOOR:
        assert FLOOR_OF[importer] == FLOOR_OF[imported]
        assert (imported, importer) not in SAME_FLOOR


@pytest.mark.parametrize("library", ROOMS)
def test_big_libraries_stay_in_their_rooms(library: str) -> None:
    assert [
        f"{source.name}:{found.line}"
        for source in sources(PACKAGE)
        for found in source.imports
        if found.module.split(".")[0] == library and source.unit not in ROOMS[library]
    ] == []


def test_the_lowest_floor_imports_only_the_standard_library() -> None:
    allowed = sys.stdlib_module_names | {PACKAGE}
    assert [
        f"{source.name}:{found.line} {found.module}"
        for source in sources(PACKAGE)
        for found in source.imports
        if source.unit in FLOORS[0] and found.module.split(".")[0] not in allowed
    ] == []


def test_no_relative_imports() -> None:
    """Those of the tests are found by ruff, which bans them too."""
    files = (*sources(PACKAGE), *sources("jobs"))
    assert [f"{s.name}:{found.line}" for s in files for found in s.imports if found.module.startswith(".")] == []


def test_scripts_import_only_what_is_installed() -> None:
    """`python jobs/NAME.py` sees its own folder and what is installed, not the root of the checkout."""
    scripts = (*sources("jobs"), *(source for source in sources("examples") if source.name.count("/") == 1))
    assert [
        f"{source.name}:{found.line} {found.module}"
        for source in scripts
        for found in source.imports
        if found.module.split(".")[0] in {"benchmarks", "examples", "tests"}
    ] == []


def test_every_name_says_what_is_inside() -> None:
    files = (*sources(PACKAGE), *sources("tests"))
    assert [source.name for source in files if VAGUE & set(source.name.removesuffix(".py").split("/"))] == []


@pytest.mark.parametrize(
    ("name", "text", "caught"),
    [
        ("memory/merge.py", "from latentmas_ray.engine.turn import Prompt", True),
        ("memory/merge.py", "def f():\n    import latentmas_ray.models.load", True),
        ("memory/merge.py", "if TYPE_CHECKING:\n    from latentmas_ray import engine", True),
        ("memory/merge.py", "importlib.import_module('latentmas_ray.scheduler.loop')", True),
        ("scheduler/loop.py", "from latentmas_ray.actors.manager import ReplicaManager", True),
        ("system.py", "from latentmas_ray import LatentMAS", True),
        ("memory/merge.py", "from latentmas_ray.memory.segment import Segment", False),
        ("memory/merge.py", "from latentmas_ray.topology.agent import AgentMemory", False),
        ("actors/shell.py", "from latentmas_ray.scheduler.protocol import TurnHandle", False),
        ("cli/main.py", "from latentmas_ray import __version__", False),
    ],
)
def test_the_check_itself(name: str, text: str, caught: bool) -> None:
    ast.parse(text)
    assert bool(list(violations(Source(f"{PACKAGE}/{name}", text)))) is caught
