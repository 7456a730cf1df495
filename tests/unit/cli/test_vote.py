"""`latentmas vote` on the command line."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from latentmas_ray import ConfigError, LatentMAS, RunConfig
from latentmas_ray.cli.main import main
from tests.cases.report import PageParts
from tests.cases.vote_runs import rows_of, write_voter, write_votes
from tests.documents import ROOT

RIGHT = ["0", "2", "4", "6", "8", "10"]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three runs in the current folder."""
    monkeypatch.chdir(tmp_path)
    found = {
        "single": [*RIGHT[:5], "7"],
        "text": ["0", "2", "9", "6", "8", "7"],
        "latent": ["0", None, "4", "1", "8", "3"],
    }
    for method, predictions in found.items():
        write_voter(tmp_path / method, predictions, method=method, latent_steps=3)
    return list(found)


def test_the_tables_have_all_rules_and_agents(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", *runs, "--calibrate", "3"]) == 0
    out = capsys.readouterr().out
    assert "sums: 3 questions, 3 more for rule ow to learn from, 3 agents" in " ".join(out.split())
    for word in ("majority", "ow", "sp", "isp", "ow-l", "ow-i", "dawid-skene", *runs, "Effective number of votes"):
        assert word in out
    assert main(["vote", *runs]) == 0
    assert "--calibrate N learns from those of N questions" in " ".join(capsys.readouterr().out.split())


def test_the_figures_as_json(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", *runs, "--json", "--options", "30"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["num_judged"], told["num_options"], told["best"]) == (6, "30", "single")
    assert [rule["rule"] for rule in told["rules"]] == ["majority", "sp", "isp", "ow-l", "ow-i", "dawid-skene"]
    assert told["rules"][0]["accuracy"] == 5 / 6
    assert told["rules"][1]["to_majority"]["num_questions"] == 6
    assert set(told["voters"][0]["estimates"]) == {"ow-l", "ow-i", "dawid-skene"}


def test_compare_report_and_results_take_the_folder(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", *runs, "--output", "voted"]) == 0
    assert "written to voted: 6 decisions by ow-l" in capsys.readouterr().out
    assert main(["compare", "single", "voted", "--json"]) == 0
    first, voted = json.loads(capsys.readouterr().out)["runs"]
    assert (voted["method"], voted["topology"], voted["accuracy"]) == ("vote", "ow-l", first["accuracy"])
    assert main(["report", *runs, "voted", "--output", "page.html"]) == 0
    page = PageParts(Path("page.html").read_text()).text
    assert "Vote answers as many of 6 questions right as" in page
    assert main(["results", "."]) == 0
    assert "latentmas vote RUN… --rule ow-l --seed 0" in capsys.readouterr().out
    assert main(["report", "voted", "--output", "alone.html"]) == 0
    assert main(["vote", *runs, "voted", "--json"]) == 0  # a decision may vote, too
    assert main(["vote", *runs, "--output", "voted"]) == 2
    assert "results.jsonl is already there" in capsys.readouterr().err


def test_a_rule_may_be_chosen(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", *runs, "--calibrate", "2", "--output", "default"]) == 0
    assert "4 decisions by ow" in capsys.readouterr().out
    assert main(["vote", *runs, "--rule", "isp", "--output", "isp"]) == 0
    assert "topology: isp" in Path("isp/config.yaml").read_text()
    assert main(["vote", *runs, "--rule", "isp"]) == 0
    assert "--rule isp does nothing without --output" in capsys.readouterr().err


def test_no_run_can_be_started_with_method_vote(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--method", "vote", "--task", "chain"]) == 2
    assert "--method: got 'vote'; it must be single, text or latent; latentmas vote decides" in capsys.readouterr().err
    assert main(["eval", "--method", "votes"]) == 2
    assert "it must be 'single', 'text' or 'latent'" in capsys.readouterr().err
    assert main(["vote", *runs, "--output", "voted"]) == 0
    assert main(["eval", "--config", "voted"]) == 2
    assert "method" in capsys.readouterr().err
    with (
        pytest.raises(ConfigError, match="latentmas vote decides over finished runs"),
        LatentMAS(RunConfig(method="vote", runtime="local")),
    ):
        pass


def test_a_simulation_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", "--simulate"]) == 0
    out = capsys.readouterr().out
    for line in ("85.00 79.80 90.20 91.20", "92.37 90.49 94.36 94.69", "95.23 94.20 96.60 96.71"):
        assert line in " ".join(out.split())
    assert main(["vote", "--simulate", "--accuracies", ".5,.5,.5", "--options", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["accuracies"] == [0.5, 0.5, 0.5]
    assert told["rows"] == [{"num_options": 2, "majority": 0.5, "sp": 0.5, "isp": 0.5, "ow": pytest.approx(0.5)}]


def test_what_a_simulation_does_not_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vote", "--simulate", "--seed", "3", "--calibrate", "2", "--output", "voted"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert sorted(line.split()[1] for line in told) == ["--calibrate", "--output", "--seed"]
    assert all("does nothing with --simulate" in line for line in told)
    assert main(["vote", "--simulate"]) == 0
    assert capsys.readouterr().err == ""


def test_the_job_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/vote.py", "--simulate", "--options", "2"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "jobs" / "vote.py"), run_name="__main__")
    assert ended.value.code == 0
    assert "85.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "RUN: got 'nothing'; give output folders of runs"),
        (["single"], "RUN: got 'single'; it takes at least two runs"),
        (["single", "single"], "it is given twice"),
        (["single", "none"], "there is no such folder"),
        (["single", "text", "--calibrate", "6"], "--calibrate: got '6'; 6 questions have a gold"),
        (["single", "text", "--calibrate", "0"], "--calibrate: got '0'"),
        (["single", "text", "--calibrate", "x"], "--calibrate: got 'x'"),
        (["single", "text", "--options", "1"], "--options: got '1'; it must be a whole number of at least 2, or open"),
        (["single", "text", "--options", "x"], "--options: got 'x'"),
        (["single", "text", "--rule", "best"], "--rule: got 'best'; it must be one of majority, ow,"),
        (["single", "text", "--rule", "ow"], "--rule: got 'ow'; it needs --calibrate N"),
        (["single", "text", "--seed", "-1"], "--seed: got '-1'"),
        (["single", "text", "--output", "single"], "--output: got 'single'; results.jsonl is already there"),
        (["single", "text", "--output", "votes.jsonl"], "--output: got 'votes.jsonl'; it must be a folder"),
        (["votes.jsonl"], "--options: got 'nothing'; it must be the number of possible answers"),
        (["votes.jsonl", "--options", "2"], "votes have 3 different labels"),
        (["--simulate", "single"], "--simulate takes no runs"),
        (["--simulate", "--accuracies", ".5"], "--accuracies: got '0.5'; it must be 2 to 9 of them"),
        (["--simulate", "--accuracies", ".5,x"], "--accuracies: got '.5,x'; it must be numbers, as in"),
        (["--simulate", "--accuracies", ".5,1.5"], "each must be in 0 to 1"),
        (["--simulate", "--options", "2,1"], "--options: got '2,1'; each must be at least 2"),
        (["--simulate", "--accuracies", ""], "--accuracies: got ''; it must be numbers, as in"),
        (["--simulate", "--options", ""], "--options: got ''; it must be numbers, as in"),
        (["single", "text", "--output", ""], "--output: got ''; it must be a folder on this machine"),
        (["--simulate", "--options", "2,open"], "--options: got '2,open'; it must be numbers"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], complaint: str, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_votes(Path("votes.jsonl"), rows_of({"x": "AAB", "y": "ABC", "z": "ACA"}))
    assert main(["vote", *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) == 1
