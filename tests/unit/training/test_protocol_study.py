"""The study of the latent protocol: its cells, what judges them, the training by grades, and the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.training.protocol import judge, loop
from examples.training.protocol.documents import ThinkingMix
from examples.training.protocol.judge import judge_cell, load_judged
from examples.training.protocol.model import EMBEDDINGS, TrainedModel
from examples.training.protocol.reward import RewardTraining, group_advantages, reward_cell
from examples.training.protocol.study import MAIN, STUDY
from examples.training.protocol.train import ThoughtTraining, train_cell
from examples.training.studies.cell import CellResult, CellRun, StudyCell
from examples.training.studies.command import study_command
from examples.training.studies.folder import StudyRow
from examples.training.studies.run import choose_cells

SMALL = ThoughtTraining(num_steps=3, num_taught=1, num_rows=2, num_old_rows=1, thoughts=(2,), taught=(3,))


def training_cell(training: ThoughtTraining = SMALL) -> StudyCell:
    return StudyCell(name="text-1", seed=1, settings={"training": training.to_json()})


@pytest.fixture(scope="module")
def trained() -> CellResult:
    return train_cell(CellRun(training_cell(), {}))


def test_a_training_changes_the_layers_and_leaves_the_embeddings(trained: CellResult) -> None:
    model, _ = load_judged(None)
    before = {name: tensor.float() for name, tensor in model.state_dict().items()}
    assert trained.weights is not None
    assert not set(trained.weights) & set(EMBEDDINGS)
    assert set(trained.weights) == set(before) - set(EMBEDDINGS)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in trained.weights.items())
    assert [row["step"] for row in trained.figures["history"]] == [3]


def test_an_interrupted_training_ends_with_the_same_weights(
    trained: CellResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[Any] = []

    class StopError(Exception):
        pass

    def stop(state: Any) -> None:
        states.append(state)
        if len(states) == 2:
            raise StopError

    monkeypatch.setattr(loop, "_REPORT_STEPS", 10)
    with pytest.raises(StopError):
        train_cell(CellRun(training_cell(), {}, write=stop, save_seconds=0.0))
    again = train_cell(CellRun(training_cell(), {}, states[-1]))
    assert states[-1]["step"] == 2
    assert again.figures == trained.figures
    assert trained.weights is not None
    assert again.weights is not None
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in trained.weights.items())


def test_names_are_drawn_again_inside_and_are_their_own_outside() -> None:
    trained = TrainedModel()
    named = dict(trained.model.named_parameters())
    before = {name: named[name].detach().clone() for name in EMBEDDINGS}
    with trained.renamed(torch.Generator().manual_seed(1)):
        changed = (named[EMBEDDINGS[0]] != before[EMBEDDINGS[0]]).any(dim=1)
        assert int(changed.sum()) == 153, "the names, and nothing else"
        norms = named[EMBEDDINGS[0]][changed].float().norm(dim=1).mean()
        assert norms == pytest.approx(float(before[EMBEDDINGS[0]][changed].float().norm(dim=1).mean()), rel=0.05)
    assert all(torch.equal(named[name], before[name]) for name in EMBEDDINGS)


def test_advantages_are_within_groups_and_0_where_all_are_equal() -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]), torch.tensor([1, 1, 2, 2, 3])
    found = group_advantages(rewards, groups)
    assert found[2:].tolist() == [0, 0, 0]
    assert found[0] == pytest.approx(-float(found[1]))
    assert found[0] == pytest.approx(0.5**0.5, rel=1e-4), "0.5 over the sample's standard deviation"


def test_answers_are_graded_and_right_ones_become_likelier(trained: CellResult) -> None:
    """With the whole memory most of the model's own answers are right, so grades, tokens and columns fit together."""
    mix = ThinkingMix(chain=0.0, alone=0.0, wrong=0.0)
    settings = RewardTraining(num_steps=1, group_size=3, num_rows=4, thoughts=(2,), mix=mix)
    cell = StudyCell(name="reward-1", seed=1, settings={"reward": settings.to_json()}, after=("tiny",))
    shipped = {name: tensor for name, tensor in load_judged(None)[0].state_dict().items() if name not in EMBEDDINGS}
    found = reward_cell(CellRun(cell, {"tiny": shipped}))
    assert found.figures["final"]["reward"] > 0.7
    assert found.weights is not None


def test_the_judge_gives_a_verdict_for_each_question() -> None:
    settings = {"task": "notes", "memory": "matched", "steps": [0, 1], "num_questions": 4}
    found = judge_cell(CellRun(StudyCell(name="judge", seed=1, settings=settings), {}))
    assert set(found.figures["verdicts"]) == {"0", "1"}
    assert all(len(one) == 4 for one in found.figures["verdicts"].values())
    assert found.figures["accuracy"]["0"] >= 0.75


def test_the_judge_continues_with_the_numbers_of_steps_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(_model: Any, _tokenizer: Any, _settings: Mapping[str, Any], steps: int) -> str:
        asked.append(steps)
        return "10"

    monkeypatch.setattr(judge, "judge", counted)
    settings = {"task": "notes", "memory": "matched", "steps": [0, 5], "num_questions": 2}
    found = judge_cell(CellRun(StudyCell(name="judge", seed=1, settings=settings), {}, {"0": "11"}))
    assert asked == [5]
    assert found.figures["accuracy"] == {"0": 1.0, "5": 0.5}


def given(*arguments: str) -> Any:
    from argparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_argument("--minute", action="store_true")
    assert STUDY.add_flags is not None
    STUDY.add_flags(parser)
    parsed = parser.parse_args(arguments)
    parsed.seeds = [1, 2]
    return parsed


@pytest.mark.parametrize("flags", [[], ["--minute"]])
def test_every_cell_comes_after_cells_that_there_are(flags: list[str]) -> None:
    cells = STUDY.make_cells(given(*flags))
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    assert all(set(cell.after) <= set(names) for cell in cells)
    kinds = {"training" in cell.settings or "reward" in cell.settings for cell in cells}
    assert kinds == {True, False}
    chosen = choose_cells(cells, [f"judge-{MAIN}-1-notes-matched"])
    assert [cell.name for cell in chosen] == [f"{MAIN}-1", f"judge-{MAIN}-1-notes-matched"]


def test_a_training_s_settings_are_those_of_its_cell() -> None:
    training = replace(SMALL, mix=ThinkingMix(aim="text", chain=0.1))
    assert ThoughtTraining.from_json(training.to_json()) == training


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--questions", "1"], "--questions: got '1'; it must be from 2 to 1000"),
        (["--questions", "2000"], "--questions: got '2000'; it must be from 2 to 1000"),
        (["--only", "judge-huge-*"], "--only: got 'judge-huge-*'; it must match a cell"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert study_command(STUDY, [str(tmp_path / "new"), *arguments]) == 2
    shown = capsys.readouterr().err.strip()
    assert line in shown
    assert "\n" not in shown
    assert not (tmp_path / "new").exists()


def judged(who: str, memory: str, verdicts: Mapping[str, str]) -> StudyRow:
    settings = {"task": "notes", "memory": memory, "steps": [int(one) for one in verdicts], "num_questions": 8}
    return StudyRow(
        cell=f"judge-{who}-{memory}",
        seed=1,
        settings=settings,
        after=[] if who == "tiny" else [who],
        figures={"verdicts": dict(verdicts)},
        cpu_seconds=1.0,
        weights=None,
    )


def rows() -> Sequence[StudyRow]:
    return [
        judged("tiny", "matched", {"0": "11110000", "40": "11000000"}),
        judged("text-1", "matched", {"0": "11110000", "40": "11111110"}),
        judged("text-1", "deranged", {"40": "10000000"}),
        judged("text-1", "none", {"0": "10000001"}),
        judged("half-1", "deranged", {"40": "11110000"}),
        judged("no-guard-1", "deranged", {"40": "10000000"}),
    ]


def test_the_tables_have_every_accuracy_and_the_paired_differences() -> None:
    notes, chain, differences, trainings = STUDY.make_tables(rows())
    assert notes.columns == ["weights", "memory", "0", "40"]
    assert [row[:2] for row in notes.rows] == [
        ["tiny", "matched"],
        ["text-1", "matched"],
        ["text-1", "deranged"],
        ["text-1", "none"],
        ["half-1", "deranged"],
        ["no-guard-1", "deranged"],
    ]
    assert str(notes.rows[0][2]).startswith("50.0 [")
    assert notes.rows[2][2] == "–"
    assert not chain.rows
    assert not trainings.rows
    found = {(row[0], row[2], row[3]): str(row[4]).split()[0] for row in differences.rows}
    assert found["text-1", 40, "matched, after − before"] == "+62.5"
    assert found["text-1", 40, "P: matched − deranged"] == "+75.0"
    assert found["text-1", 40, "G: matched − none"] == "+62.5"
    assert found["text-1", 40, "matched, 40 − 0 steps"] == "+37.5"
    assert not [row for row in differences.rows if row[0] == "half-1"]
    assert found["no-guard-1", 40, "deranged, no-guard-1 − half-1"] == "-37.5"
    assert found["tiny", 40, "matched, 40 − 0 steps"] == "-25.0"


def test_the_plot_is_drawn_of_what_is_there(tmp_path: Path) -> None:
    assert STUDY.plot is not None
    STUDY.plot(rows(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
