"""Every example runs, prints what it says it prints, and passes a strict type checker that knows every keyword."""

import ast
import runpy
import textwrap
import warnings
from pathlib import Path

import pytest
from mypy import api as mypy

from latentmas_ray.errors import UntrainedQuestionWarning

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
# One needs Ray; what the others show is in `tests/numerics/test_calls.py` too, with fewer questions.
LONG = {"in_ray_program", "sweep", "threads"}

# One wrong keyword, or value, in each: what an editor underlines.
WRONG = {
    'LatentMAS("tiny", topolgy="sequential")': "topolgy",
    'LatentMAS("tiny", batch_size="many")': "batch_size",
    'LatentMAS("tiny", runtime="spark")': "runtime",
    'LatentMAS("tiny").ask("why?", keep_memori=True)': "keep_memori",
    'LatentMAS("tiny").evaluate("chain", seed=[1, 2])': "evaluate",
    'Agent(name="a", prompt="b", raeds=["c"])': "raeds",
    'Topology(name="a", agent=[])': "agent",
    'Memory.load("file", kv=True)': "kv",
}

# What each call gives, as a type checker is to know it.
TYPES = {
    "mas.ask('?')": "Answer",
    "mas.ask('?', keep_memory=True).memory": "Memory | None",
    "mas.think('?')": "Memory",
    "list(mas.map(['?']))": "list[Answer]",
    "list(mas.map(['?'], return_failures=True))": "list[Answer | Failure]",
    "list(mas.as_completed(['?'], return_failures=bool(input())))": "list[Answer | Failure]",
    "mas.evaluate(latent_steps=4, resume=True, output='folder')": "Summary",
    "mas.evaluate(seeds='1,2', on_seed=print)": "SeedsSummary",
    "mas.evaluate(latent_steps=range(3))": "dict[int, Summary]",
    "mas.evaluate(latent_steps=[0, 10], seeds=[1])": "dict[int, SeedsSummary]",
    "LatentMAS(RunConfig(runtime='local'), latent_steps=3)": "LatentMAS",
    "Topology(name='a', agents=[Agent(name='b', prompt='c')])": "Topology",
    "load_run('folder').answers[0]": "Answer",
}


def promised(path: Path) -> str:
    """What the example's docstring says that it prints."""
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return textwrap.dedent(told.partition("Prints:\n")[2]).strip() + "\n"


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG)) for path in EXAMPLES],
)
def test_an_example_prints_what_it_promises(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrainedQuestionWarning)
        runpy.run_path(str(path), run_name="__main__")
    assert capfd.readouterr().out == promised(path)


def test_the_list_of_examples_is_complete() -> None:
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    guide = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    for path in EXAMPLES:
        assert f"({path.name})" in listed
        assert f"(../examples/{path.name})" in guide


@pytest.mark.slow
def test_a_type_checker_knows_every_keyword(tmp_path: Path) -> None:
    """One run of mypy: the examples have no mistake, and each of these lines has one, at its wrong word."""
    lines = ["from latentmas_ray import Agent, LatentMAS, Memory, Topology", *WRONG]
    (tmp_path / "mistakes.py").write_text("\n".join(lines) + "\n")
    types = [f"assert_type({call}, {kind})" for call, kind in TYPES.items()]
    head = ["from typing import assert_type", "from latentmas_ray import *", "mas = LatentMAS()"]
    (tmp_path / "calls.py").write_text("\n".join([*head, *types]) + "\n")
    flags = ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    told, _, _ = mypy.run([*flags, str(tmp_path / "mistakes.py"), str(tmp_path / "calls.py"), *map(str, EXAMPLES)])
    assert [line for line in told.splitlines() if "examples/" in line and ": error:" in line] == []
    assert [line for line in told.splitlines() if "calls.py" in line and ": error:" in line] == []
    for number, word in enumerate(WRONG.values(), start=2):
        at_line = [line for line in told.splitlines() if f"mistakes.py:{number}: error:" in line]
        assert any(word in line for line in at_line), (lines[number - 1], at_line)
