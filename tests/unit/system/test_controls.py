"""Several controls in one call: on the same actors, each in a folder of its own, continued where they stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentmas_ray import ControlsSummary, LatentMAS
from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import ConfigError, InputError, JournalError, TaskError, TurnError
from latentmas_ray.report.compare import compare_folders
from latentmas_ray.report.runs import load_run
from latentmas_ray.runs.controls.gains import PAIRING_GAIN, SYSTEM_GAIN
from latentmas_ray.system.setup import Setup
from tests.cases.fake_runtime import FakeRuntime

ALL = "matched,deranged,prompt-only,latent-only,none,corrupted"
NOTES: dict[str, Any] = {"runtime": "local", "task": "notes", "topology": "hierarchical", "limit": 4, "batch_size": 2}


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> list[FakeRuntime]:
    """The runtimes that were started."""
    started: list[FakeRuntime] = []

    def start(setup: Setup, topology: object, num_batches: int, config: object = None) -> FakeRuntime:
        started.append(FakeRuntime())
        return started[-1]

    monkeypatch.setattr(Setup, "make_runtime", start)
    return started


def prompts_of(runtime: FakeRuntime, agent: str) -> list[str]:
    return [prompt.messages[-1]["content"] for work in runtime.works if work.agent == agent for prompt in work.prompts]


def test_all_controls_run_on_the_actors_of_the_first(runtimes: list[FakeRuntime], tmp_path: Path) -> None:
    told: list[str] = []
    with LatentMAS(**NOTES) as mas:
        # The one without other agents is named first, and would start the answering agent's actor alone.
        summary = mas.evaluate(
            output=str(tmp_path), controls=["none", *ALL.split(",")[:4], "corrupted"], on_control=told.append
        )
    assert isinstance(summary, ControlsSummary)
    (runtime,) = runtimes
    assert told[-1] == "none"
    assert list(summary.runs) == ["none", "matched", "deranged", "prompt-only", "latent-only", "corrupted"]
    assert len(prompts_of(runtime, "answerer")) == 6 * 4
    assert len(prompts_of(runtime, "expert_1")) == 5 * 4
    assert {work.hands_over for work in runtime.works if work.agent == "expert_1"} == {"all", "prompt", "latents"}
    assert summary.num_questions == 4
    assert {gain.kind for gain in summary.gains} >= {SYSTEM_GAIN, PAIRING_GAIN}
    assert summary.adoption is not None
    assert summary.churn["none"].num_answers == 4
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored == json.loads(json.dumps(summary.to_json()))
    for name in ALL.split(","):
        run = load_run(tmp_path / f"memory-{name}")
        assert (run.config.memory, len(run.answers)) == (name, 4)
        assert {one.adoption is None for one in run.answers} == {name != "corrupted"}
        assert run.summary is not None
        assert (run.summary.adoption is None) == (name != "corrupted")


def test_one_expert_is_told_something_wrong(runtimes: list[FakeRuntime]) -> None:
    with LatentMAS(**NOTES) as mas:
        mas.evaluate(controls="matched,corrupted")
    (runtime,) = runtimes
    differing = 0
    for agent in ("expert_1", "expert_2", "expert_3", "answerer"):
        prompts = prompts_of(runtime, agent)
        pairs = zip(prompts[:4], prompts[4:], strict=True)
        differing += sum(right != wrong for right, wrong in pairs) * (agent != "answerer")
        assert agent != "answerer" or prompts[:4] == prompts[4:]
    assert differing == 4  # one for each question


def test_an_interrupted_run_continues_with_what_is_missing(
    runtimes: list[FakeRuntime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(name: str) -> None:
        if name == "deranged":
            raise KeyboardInterrupt

    run = NOTES | {"output": str(tmp_path)}
    with LatentMAS(**run) as mas, pytest.raises(KeyboardInterrupt):
        mas.evaluate(controls=True, on_control=stop)
    assert len(load_run(tmp_path / "memory-matched").answers) == 4
    assert not (tmp_path / "summary.json").exists()
    with LatentMAS(**run) as mas, pytest.raises(JournalError, match="add --resume"):
        mas.evaluate(controls=True)
    with LatentMAS(**run, resume=True) as mas:
        summary = mas.evaluate(controls=True)
    assert len(prompts_of(runtimes[-1], "answerer")) == 2 * 4  # deranged and none
    assert summary.runs["matched"].num_questions == summary.runs["none"].num_questions == 4
    # A control's folder is that of a run of its own.
    with LatentMAS(**NOTES, memory="deranged", resume=True, output=str(tmp_path / "memory-deranged")) as mas:
        mas.evaluate()
    assert len(runtimes) == 2


def test_seeds_and_numbers_of_latent_steps_are_in_the_folders_of_controls(
    runtimes: list[FakeRuntime], tmp_path: Path
) -> None:
    with LatentMAS(**NOTES) as mas:
        found = mas.evaluate(output=str(tmp_path), seeds=[1, 2], latent_steps=[0, 3], controls="matched,none")
        with pytest.raises(JournalError, match="holds runs with 0, 3 latent steps"):
            mas.evaluate(output=str(tmp_path), controls="matched,none")
    assert list(found) == [0, 3]
    assert len(runtimes) == 1
    config = yaml.safe_load((tmp_path / "latent-steps-3" / "memory-none" / "seed-2" / "config.yaml").read_text())
    assert (config["latent_steps"], config["memory"], config["seed"]) == (3, "none", 2)
    assert found[3].churn["none"].num_answers == 8
    assert {gain.kind for gain in compare_folders([str(tmp_path / "latent-steps-3")]).gains} == {SYSTEM_GAIN}


def test_failures_are_counted_over_all_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(work: TurnRequest) -> TurnError | None:
        return TurnError("it fell over") if work.agent == "expert_1" and "notes-1" in work.question_ids else None

    monkeypatch.setattr(Setup, "make_runtime", lambda self, topology, num_batches: FakeRuntime(failure=fail))
    with LatentMAS(**NOTES) as mas:
        summary = mas.evaluate(controls=True)
    assert summary.num_failed == 2
    assert summary.churn["none"].num_answers == 3
    assert summary.gains[0].paired is not None
    assert summary.gains[0].paired.num_questions == 3


@pytest.mark.parametrize(
    ("fields", "controls", "kind", "expected"),
    [
        ({"method": "single"}, True, ConfigError, "controls: got 'matched,deranged,none'; method single hands over no"),
        ({"memory": "none"}, True, ConfigError, "it cannot be used with memory none"),
        ({"task": "sample", "topology": "sequential"}, "matched,corrupted", TaskError, "has no wrong version"),
        ({"limit": 1}, True, TaskError, "memory: got 'deranged'; it needs at least two questions"),
        ({}, "matched,wrong", ConfigError, "controls: got 'matched,wrong'; it must be matched and at least one other"),
    ],
)
def test_what_means_nothing_is_refused_before_anything_starts(
    fields: dict[str, Any], controls: Any, kind: type[InputError], expected: str, runtimes: list[FakeRuntime]
) -> None:
    with pytest.raises(kind) as caught:
        LatentMAS(**NOTES | fields).evaluate(controls=controls)
    assert expected in str(caught.value)
    assert not runtimes


def test_folders_of_other_runs_are_refused(runtimes: list[FakeRuntime], tmp_path: Path) -> None:
    both, single = str(tmp_path / "both"), str(tmp_path / "single")
    with LatentMAS(**NOTES) as mas:
        mas.evaluate(output=single)
        mas.evaluate(output=both, controls="matched,none")
        for output, controls, expected in (
            (single, True, r"it holds the config\.yaml of a run without controls"),
            (both, None, "it holds runs with the controls matched, none; give controls"),
            (both, "matched,deranged", "it holds runs with the controls none too"),
        ):
            with pytest.raises(JournalError, match=expected):
                mas.evaluate(output=output, controls=controls, resume=True)
        assert mas.evaluate(output=both, controls=True, resume=True).controls == ("matched", "deranged", "none")


def test_replicas_of_agents_that_a_control_leaves_out_are_no_mistake(runtimes: list[FakeRuntime]) -> None:
    with LatentMAS(**NOTES | {"runtime": "ray", "replicas": "expert_1=2"}) as mas:
        assert mas.evaluate(controls="matched,none").num_questions == 4
    assert len(runtimes) == 1
