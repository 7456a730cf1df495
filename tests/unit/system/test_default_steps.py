"""What follows from the default number of latent steps: earlier runs, presets, and agents with nothing but thoughts."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentmas_ray import LatentMAS, ThoughtsAloneWarning, Topology
from latentmas_ray.cli.main import main
from latentmas_ray.config import RunConfig
from latentmas_ray.config.command import eval_command
from latentmas_ray.errors import JournalError
from latentmas_ray.runs.journal import Journal
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.topology import BUILTIN
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import CHAIN, make_driver, make_questions

QUESTIONS = make_questions(3)


def lines(**fields: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LatentMAS("tiny", runtime="local", **fields)
    assert {one.category for one in caught} <= {ThoughtsAloneWarning}
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("topology", [name for name in BUILTIN if not name.endswith(("single", "abstraction"))])
def test_nothing_is_said_of_the_default(topology: str) -> None:
    assert lines(topology=topology) == []


@pytest.mark.parametrize("memory", ["latent-only", "latent-only+sink"])
def test_thoughts_alone_by_a_control(memory: str) -> None:
    (line,) = lines(memory=memory)
    assert line.startswith("agents planner, critic, refiner hand over thoughts alone, 5 each by default (latent_steps)")
    assert lines(memory=memory, latent_steps=5) == []
    assert lines(memory=memory, latent_steps="auto") == []


def test_thoughts_alone_with_the_number_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for steps, num_lines in ((40, 0), (5, 1)):
        file.write_text(
            yaml.safe_dump(RunConfig(memory="latent-only", runtime="local", latent_steps=steps).model_dump())
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert LatentMAS.from_config(file).config.latent_steps == steps
        assert len(caught) == num_lines


def test_thoughts_alone_by_a_topology() -> None:
    agents = [
        {"name": "reader", "prompt": "Read. {{ question }}"},
        {"name": "sceptic", "prompt": "Doubt. {{ question }}", "hands_over": "latents"},
        {"name": "answerer", "prompt": "{{ question }}", "thinks": "text", "reads": ("reader", "sceptic")},
    ]
    (line,) = lines(topology=Topology(name="team", agents=agents))
    assert line.startswith("agent sceptic hands over thoughts alone, 5 each by default")
    agents[1]["latent_steps"] = 20
    assert lines(topology=Topology(name="team", agents=agents)) == []
    assert lines(topology=Topology(name="team", agents=agents), method="text") == []


def test_the_command_line_says_it_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["eval", "--runtime", "local", "--limit", "2", "--max-new-tokens", "2", "--topology", "hierarchical"]
    assert main([*flags, "--controls", "matched,latent-only,none"]) == 0
    err = capfd.readouterr().err
    assert [line[:31] for line in err.splitlines() if "thoughts alone" in line] == ["note: agents planner, critic, r"]


def test_a_latent_run_from_before_is_resumed_with_its_number(tmp_path: Path) -> None:
    journal(tmp_path, latent_steps=40)
    with pytest.raises(JournalError, match=r"latent_steps: got '5'; the run in .* has 40; resume with the same"):
        journal(tmp_path)
    journal(tmp_path, latent_steps=40)


@pytest.mark.parametrize("fields", [{"method": "single"}, {"method": "text"}, {"memory": "none"}], ids=str)
def test_where_none_thinks_the_number_is_free(tmp_path: Path, fields: dict[str, Any]) -> None:
    journal(tmp_path, latent_steps=40, **fields)
    journal(tmp_path, **fields)
    with pytest.raises(JournalError, match="batch_size"):
        journal(tmp_path, batch_size=1, **fields)


@pytest.mark.parametrize(
    "first", [{"thinks": "latent", "latent_steps": 3}, {"thinks": "text"}], ids=["own numbers", "texts"]
)
def test_where_no_agent_takes_the_number_of_the_run_it_is_free(tmp_path: Path, first: dict[str, Any]) -> None:
    agents = [{"name": "a", "prompt": "{{ question }}", **first}]
    agents += [{"name": "b", "prompt": "{{ question }}", "reads": ["a"], "thinks": "text"}]
    text = yaml.safe_dump({"name": "own", "agents": agents})
    journal(tmp_path, text, latent_steps=40)
    journal(tmp_path, text)
    agents[0] = {"name": "a", "prompt": "{{ question }}", "thinks": "latent"}
    with pytest.raises(JournalError, match="latent_steps: got '5'"):
        journal(tmp_path, yaml.safe_dump({"name": "own", "agents": agents}))


def test_the_command_of_a_run_names_the_number_where_agents_think() -> None:
    assert "--latent-steps 40" in eval_command(RunConfig(latent_steps=40))
    assert "--latent-steps" not in eval_command(RunConfig(latent_steps=40, method="text"))


def journal(folder: Path, topology: str | None = None, **fields: Any) -> None:
    """Run, or resume a run, with these fields."""
    is_resumed = (folder / "config.yaml").exists()
    config = RunConfig(output=str(folder), resume=is_resumed, **fields)
    with Journal.open(folder, config, QUESTIONS, topology=topology) as opened:
        if not is_resumed:
            opened.record(*make_driver(FakeRuntime(), CHAIN).run(plan_batches(QUESTIONS, 2)))
