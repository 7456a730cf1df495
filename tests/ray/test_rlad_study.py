"""The players of the RLAD study as actors, and the whole study at its smallest size."""

import json
from pathlib import Path

import pytest

from examples.training.rlad.__main__ import STUDY
from examples.training.rlad.actors.learner import Learner
from examples.training.rlad.actors.players import Players
from examples.training.rlad.actors.rollouts import PromptToSample
from examples.training.rlad.game import Game
from examples.training.rlad.settings import MINUTE
from examples.training.rlad.task.prompts import POLICIES, SOLVER
from examples.training.studies.command import study_command
from tests.cases.training_rlad import LocalPlayers

pytestmark = pytest.mark.usefixtures("cluster")


def test_actors_play_as_one_process_does(tmp_path: Path) -> None:
    """Two workers that share the prompts draw the same texts, so both policies end at the same weights."""
    weights = {role: Learner(role, 1).weights() for role in POLICIES}
    local = Game(MINUTE.play, LocalPlayers(weights, 1, str(tmp_path)), 1)
    with Players(weights, 1, 2) as players:
        game = Game(MINUTE.play, players, 1)
        while not game.is_over:
            game.advance()
            local.advance()
        assert [step["success"] for step in game.history if "success" in step] == [
            step["success"] for step in local.history if "success" in step
        ]
        prompts = [PromptToSample(str(number), "Question: 1?") for number in range(3)]
        assert len(players.draw(SOLVER, prompts, num=2, temperature=1.0, seed=1)) == 3
        assert players.cpu_seconds() > 0


@pytest.mark.slow
def test_the_whole_study_at_its_smallest_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study_command(STUDY, [str(tmp_path), "--minute", "--seeds", "1"]) == 0
    assert "trained pair, over the untrained pair" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert {row["cell"] for row in rows} == {"warm-hinter-1", "warm-solver-1", "rlad-1", "alone-1", "judge-1"}
    assert all(row["cpu_seconds"] > 0 for row in rows)
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {
        f"{row['cell']}.pt" for row in rows if row["weights"]
    }
    assert (tmp_path / "plot.png").exists()
    assert study_command(STUDY, [str(tmp_path), "--minute", "--seeds", "1", "--table"]) == 0
    assert "Differences in points" in capsys.readouterr().out
