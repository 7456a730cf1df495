"""Teams that decide and samples, on the embedded model: what a run gives, stores, resumes and refuses."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray import Answer, LatentMAS, RunConfig, Topology
from latentmas_ray.errors import ConfigError, JournalError, TaskError, TopologyError
from latentmas_ray.runs.run_events import QuestionAnswered, RunEvent
from latentmas_ray.system.deciding import decision_of
from latentmas_ray.topology import load_topology

SETTINGS: dict[str, Any] = {"runtime": "local", "latent_steps": 2, "temperature": 1.2, "max_new_tokens": 24}
CHAIN = load_topology("chain-sequential")
ANSWERING = ("judger", "second", "third")


def team(rule: str = "majority") -> Topology:
    """The built-in chain with two more agents that answer."""
    *others, judger = CHAIN.agents
    more = [judger.replace(name=name, reads=["refiner"]) for name in ANSWERING[1:]]
    return Topology(name="team", decides=rule, agents=[*others, judger, *more])


class EndsAfter:
    """An observer that ends the run by an error after so many answers."""

    def __init__(self, count: int) -> None:
        self.left = count

    def on_event(self, event: RunEvent) -> None:
        self.left -= isinstance(event, QuestionAnswered)
        if not self.left:
            raise RuntimeError("the machine lost its power")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    timed = ("seconds", "agent_seconds", "transfers", "own_seconds")
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]


@pytest.mark.parametrize("rule", ["majority", "ow-l"])
def test_a_run_that_was_interrupted_decides_like_one_that_was_not(rule: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "task": "chain", "topology": team(rule), "batch_size": 2}
    with LatentMAS("tiny", **settings) as mas:
        summary = mas.evaluate(limit=6, output=str(tmp_path / "whole"))
    with LatentMAS("tiny", **settings, observer=EndsAfter(3)) as mas, pytest.raises(RuntimeError, match="power"):
        mas.evaluate(limit=6, output=str(tmp_path / "broken"))
    before = rows_of(tmp_path / "broken")
    assert 0 < len(before) < 6
    assert {row["decision"]["is_final"] for row in before} == {rule == "majority"}
    with LatentMAS("tiny", **settings) as mas:
        again = mas.evaluate(limit=6, output=str(tmp_path / "broken"), resume=True)
    rows = rows_of(tmp_path / "whole")
    assert rows_of(tmp_path / "broken") == rows
    assert again.votes == summary.votes
    assert [vote["agent"] for vote in rows[0]["votes"]] == list(ANSWERING)
    assert {row["decision"]["rule"] for row in rows} == {rule}
    assert all(row["decision"]["is_final"] for row in rows)
    assert summary.votes is not None
    assert summary.votes.rule == rule
    assert summary.votes.any_right is not None
    assert summary.accuracy is not None
    assert summary.votes.any_right >= summary.accuracy


def test_each_sample_is_a_run_of_its_seed_and_memory_is_moved_once() -> None:
    questions = ["Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"]
    found: dict[int, Answer] = {}

    def ask(**more: Any) -> Answer:
        with LatentMAS("tiny", **{**SETTINGS, "temperature": 3.0, "dtype": "float32"}, **more) as mas:
            (answer,) = mas.map(questions)
            return answer

    several = ask(samples=4, seed=9)
    for vote in several.votes:
        found[vote.seed] = ask(seed=vote.seed)
        assert vote.answer_token_ids == found[vote.seed].answer_token_ids
        assert vote.answer == found[vote.seed].answer
    assert [vote.sample for vote in several.votes] == [0, 1, 2, 3]
    one = found[9]
    assert [(read.source, read.num_bytes, read.moved_bytes) for read in several.transfers] == [
        (read.source, read.num_bytes, read.moved_bytes) for read in one.transfers
    ]
    assert several.memory_bytes == one.memory_bytes
    assert several.prompt_tokens == one.prompt_tokens
    assert several.output_tokens == sum(len(vote.answer_token_ids) for vote in several.votes)
    assert len({vote.answer_token_ids for vote in several.votes}) > 1


@pytest.mark.parametrize("method", ["single", "text"])
def test_samples_of_the_other_methods(method: str) -> None:
    settings = {name: value for name, value in SETTINGS.items() if name != "latent_steps"}
    with LatentMAS("tiny", **settings, method=method, samples=3) as mas:
        (answer,) = mas.map(["Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"])
    assert len(answer.votes) == 3
    assert {vote.agent for vote in answer.votes} == {[*answer.agents][-1]}


def test_a_rule_that_needs_all_questions_returns_them_at_the_end() -> None:
    questions = ["Tom has 2 keys. Then Tom finds 1 more. How many keys has Tom now?"] * 2
    with LatentMAS("tiny", **SETTINGS, topology=team("isp"), batch_size=1) as mas:
        for results in (mas.map(questions), mas.as_completed(questions)):
            answers = list(results)
            assert [answer.id for answer in answers] == ["q0", "q1"]
            assert all(answer.decision and answer.decision.rule == "isp" for answer in answers)
            assert all(answer.decision and answer.decision.is_final for answer in answers)


def test_controls_of_a_team(tmp_path: Path) -> None:
    with LatentMAS("tiny", **SETTINGS, task="chain", topology=team(), batch_size=4) as mas:
        found = mas.evaluate(limit=4, controls="matched,deranged,none", output=str(tmp_path))
    for name in ("matched", "deranged", "none"):
        assert [len(row["votes"]) for row in rows_of(tmp_path / f"memory-{name}")] == [3] * 4
    assert found.controls == ("matched", "deranged", "none")


def test_known_accuracies_are_pinned(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("".join(f"{name}: 0.{9 - place}\n" for place, name in enumerate(ANSWERING)))
    settings = {**SETTINGS, "task": "chain", "topology": team("ow"), "decide_accuracies": str(path)}
    with LatentMAS("tiny", **settings) as mas:
        mas.evaluate(limit=2, output=str(tmp_path / "run"))
    weights = rows_of(tmp_path / "run")[0]["decision"]["weights"]
    assert sorted(weights, key=weights.__getitem__, reverse=True) == list(ANSWERING)
    path.write_text(path.read_text().replace("0.9", "0.95"))
    with LatentMAS("tiny", **settings) as mas, pytest.raises(JournalError, match=r"decide_accuracies: got .*0\.9"):
        mas.evaluate(limit=2, output=str(tmp_path / "run"), resume=True)


def refused(topology: Topology, **fields: Any) -> str:
    with pytest.raises((ConfigError, TopologyError)) as caught:
        decision_of(RunConfig(**fields), topology)
    return str(caught.value)


def test_what_cannot_be_decided() -> None:
    assert "there is one answer to a question, so nothing is decided" in refused(CHAIN, decides="ow")
    assert "decides: got 'isp'; judger alone answers: there is one" in refused(CHAIN.replace(decides="isp"))
    assert "there is one answer" in refused(CHAIN, decide_accuracies="own.yaml")
    assert "rule majority takes no accuracies" in refused(team(), decide_accuracies="own.yaml")
    assert "rule ow-l takes no accuracies" in refused(team(), decides="ow-l", decide_accuracies="own.yaml")
    assert decision_of(RunConfig(samples=2), CHAIN).votes
    assert decision_of(RunConfig(decides="sp", samples=2), CHAIN).rule == "sp"
    assert decision_of(RunConfig(decides="sp"), team("isp")).rule == "sp"
    assert decision_of(RunConfig(), team("isp")).rule == "isp"


def check(fields: Mapping[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        LatentMAS("tiny", **{**SETTINGS, **fields})


def test_what_is_refused_before_anything_starts() -> None:
    check({"samples": 2, "temperature": 0}, ConfigError, "at temperature 0 all of them are the same")
    check({"samples": 0}, ConfigError, "samples: got '0'; it must be a whole number from 1 to ")
    check({"samples": True}, ConfigError, "it must be a number, not true or false")
    check({"decides": "best"}, ConfigError, "decides: got 'best'; it must be 'majority'")
    check({"decides": "ow"}, ConfigError, "nothing is decided")
    code = {"id": "a", "question": "f", "prompt": "def f():\n", "test": "assert f() == 1", "entry_point": "f"}
    programs = LatentMAS("tiny", **SETTINGS, samples=2, unsafe_programs=True)
    with pytest.raises(TaskError, match="its answers are programs"):
        programs.map([code])
    with LatentMAS("tiny", **SETTINGS, topology=team()) as mas:
        for call in (lambda: mas.think("x?"), lambda: mas.map(["x?"], keep_memory=True)):
            with pytest.raises(TopologyError, match="each reads memory of its own"):
                call()
