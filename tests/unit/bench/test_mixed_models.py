"""Teams of two models, measured: which cells there are, what a finished cell costs, and the tables."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.mapped_words import MappedWords, words_table
from benchmarks.mixed_models import (
    MixedCell,
    MixedFigures,
    MixedSettings,
    measure_mixed,
    mixed_cells,
    mixed_table,
    split_teams,
)
from latentmas_ray.errors import ConfigError


def test_each_pair_has_all_controls_in_both_directions_and_each_model_its_own() -> None:
    cells = list(mixed_cells(("tiny", "small")))
    assert len({cell.folder for cell in cells}) == len(cells) == 22
    for pair in (("tiny", "small"), ("small", "tiny")):
        own = [cell.memory for cell in cells if (cell.experts, cell.answerer) == pair and cell.method == "latent"]
        assert own == ["matched", "deranged", "prompt-only", "latent-only", "none"]


def test_one_model_is_no_team() -> None:
    with pytest.raises(ConfigError, match="it must be at least two models"):
        MixedSettings(models=("tiny", "tiny"))


def test_teams_can_be_chosen_and_each_of_their_models_answers_alone() -> None:
    cells = list(MixedSettings(models=("tiny", "small", "other"), teams=split_teams("small+small,tiny+small")).cells())
    single = [cell.experts for cell in cells if cell.method == "single"]
    teams = {(cell.experts, cell.answerer) for cell in cells if cell.method != "single"}
    assert single == ["tiny", "small"]
    assert teams == {("tiny", "small"), ("small", "small")}
    assert list(MixedSettings().cells()) == list(mixed_cells(("tiny", "small")))


@pytest.mark.parametrize(
    ("teams", "line"),
    [
        ("tiny", "--teams: got 'tiny'; it must be EXPERTS+ANSWERER, as in tiny+small"),
        ("tiny+other", "--teams: got 'other'; it must be two of --models, tiny, small"),
    ],
)
def test_teams_that_cannot_be_are_refused(
    teams: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mixed-models", str(tmp_path / "none"), "--teams", teams]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_finished_cell_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [MixedCell("tiny", "small", "latent"), MixedCell("small", "small", "single")]
    monkeypatch.setattr("benchmarks.mixed_models.mixed_cells", lambda models: cells)
    settings = MixedSettings(limit=2, latent_steps=1, max_new_tokens=4, batch_size=2)
    first = measure_mixed(settings, tmp_path, lambda line: None)
    told: list[str] = []
    monkeypatch.setattr("benchmarks.mixed_models.LatentMAS", None)  # it would have to be called
    assert measure_mixed(settings, tmp_path, told.append) == first
    assert [line.split(":")[0] for line in told] == ["tiny-small-latent-matched", "small-small-single"]
    with pytest.raises(ConfigError, match="--limit: got '3'; the cell tiny-small-latent-matched has --limit 2"):
        measure_mixed(replace(settings, limit=3), tmp_path, told.append)


def test_tables_have_the_gains_with_their_intervals() -> None:
    matched, deranged = (1.0,) * 40, (0.0,) * 40
    found = [
        MixedFigures(MixedCell("tiny", "small", "latent"), matched),
        MixedFigures(MixedCell("tiny", "small", "latent", "deranged"), deranged),
    ]
    table = mixed_table(found)
    assert "| tiny | small |  |  | 100.0 (91.2–100.0) | 0.0 (0.0–8.8) |" in table
    assert "| tiny | small | +100.0 (+100.0 to +100.0) |" in table


def test_words_are_told_with_both_controls() -> None:
    answers = dict.fromkeys(("own tokens", "mapped words", "another question's mapped words"), (True, False))
    table = words_table([MappedWords("tiny", "small", "input", 590, 1.0, 0.25, answers)])  # type: ignore[arg-type]
    assert "| tiny | small | input | 590 | 100.0 | 25.0 | 50.0 (" in table
