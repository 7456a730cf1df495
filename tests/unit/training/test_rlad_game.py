"""The alternation of the RLAD study: its schedule, what each phase trains, and that it continues where it was."""

from pathlib import Path
from typing import Any

import pytest
import torch

from examples.training.rlad.actors.learner import Learner
from examples.training.rlad.game import Game, schedule
from examples.training.rlad.settings import MINUTE, PlaySettings
from examples.training.rlad.task.prompts import HINTER, POLICIES, SOLVER
from tests.cases.training_rlad import LocalPlayers


@pytest.fixture
def players(tmp_path: Path) -> LocalPlayers:
    return LocalPlayers({role: Learner(role, 1).weights() for role in POLICIES}, 1, str(tmp_path))


def test_the_hinter_is_trained_before_the_solver_in_every_round() -> None:
    settings = PlaySettings(num_rounds=2, propose_steps=1, fit_steps=2, solve_steps=1)
    assert [(step.round, step.phase) for step in schedule(settings)] == [
        (0, "propose"), (0, "fit"), (0, "fit"), (0, "solve"),
        (1, "propose"), (1, "fit"), (1, "fit"), (1, "solve"),
    ]  # fmt: skip


def _play(game: Game, num: int | None = None) -> None:
    while not game.is_over and num != 0:
        game.advance()
        num = None if num is None else num - 1


def _differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return any(not torch.equal(value, other[name]) for name, value in one.items())


def test_one_policy_is_trained_while_the_other_is_fixed(players: LocalPlayers) -> None:
    game = Game(MINUTE.play, players, 1)
    first = {role: players.learners[role].weights() for role in POLICIES}
    _play(game, 3)  # propose, and two steps of fitting, if any hint was kept
    assert not _differ(first[SOLVER], players.learners[SOLVER].weights())
    hinter = players.learners[HINTER].weights()
    _play(game)
    assert not _differ(hinter, players.learners[HINTER].weights())
    assert _differ(first[SOLVER], players.learners[SOLVER].weights())
    assert {"success", "kept", "blind_hits_by_chance"} <= game.history[0].keys()


def test_the_control_trains_the_solver_alone(players: LocalPlayers) -> None:
    game = Game(MINUTE.play, players, 1, bare=True)
    _play(game)
    assert {step["phase"] for step in game.history} == {"solve"}
    assert all("bare_success" in step and "success" not in step for step in game.history)


def test_an_interrupted_game_gives_what_an_undisturbed_one_gives(players: LocalPlayers, tmp_path: Path) -> None:
    whole = Game(MINUTE.play, players, 1)
    _play(whole)
    first = LocalPlayers({role: Learner(role, 1).weights() for role in POLICIES}, 1, str(tmp_path))
    begun = Game(MINUTE.play, first, 1)
    _play(begun, 4)
    state = begun.state()
    second = LocalPlayers({role: Learner(role, 1).weights() for role in POLICIES}, 1, str(tmp_path))
    resumed = Game(MINUTE.play, second, 1)
    resumed.load(state)
    _play(resumed)
    assert resumed.history == whole.history
    for role in POLICIES:
        assert not _differ(second.learners[role].weights(), players.learners[role].weights())
