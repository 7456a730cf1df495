"""Maps of thoughts between two models: what they are trained on, how, and the study's cells and tables."""

from argparse import Namespace
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.tiny_model.document import Document, DocumentPart
from examples.tiny_model.packing import pack_each
from examples.training.adapters.__main__ import main
from examples.training.adapters.cells import make_cells
from examples.training.adapters.fit import answer_loss, check, fit_answers, fit_words
from examples.training.adapters.judge import team
from examples.training.adapters.pairs import PairBatch, PairSource
from examples.training.adapters.settings import AdapterSettings, parse_teams
from examples.training.adapters.tables import make_tables
from examples.training.studies.cell import CellRun, StudyCell
from examples.training.studies.folder import StudyRow
from latentmas_ray import LatentMAS
from latentmas_ray.errors import InputError
from latentmas_ray.models.names import find_path
from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.names import HELD_OUT_NAMES

SMALL = {"batch_size": 3, "num_batches": 10, "num_steps": 3, "latent_steps": 24}


def settings(kind: Any = "words", **changes: Any) -> AdapterSettings:
    return AdapterSettings(writer="tiny", reader="small", kind=kind, **(SMALL | changes))


@pytest.fixture(scope="module")
def source() -> PairSource:
    return PairSource(settings())


def of_kind(source: PairSource, kind: Any, **changes: Any) -> PairSource:
    """The same models, with other settings."""
    other = PairSource.__new__(PairSource)
    other.__dict__.update(source.__dict__)
    other.settings = replace(source.settings, kind=kind, **changes)
    return other


def test_each_document_is_a_row_and_thoughts_have_its_order() -> None:
    def document(length: int) -> Document:
        branch = [DocumentPart([1, 2]), DocumentPart([3, 4], "sum")]
        return Document([[DocumentPart([5] * length), DocumentPart([0] * 2, soft=True)]], [branch], [0], parallel=True)

    rows = pack_each([document(3), document(6)])
    assert rows.ids_BT.shape == (2, 12)
    assert rows.soft_BT.sum(1).tolist() == [2, 2]
    assert (rows.targets_BT >= 0).sum(1).tolist() == [2, 2]
    with pytest.raises(ValueError, match="no branches"):
        pack_each([Document([], [], [])])


def test_questions_see_prompts_and_thoughts_or_thoughts_alone() -> None:
    shared = [[DocumentPart([5, 6]), DocumentPart([0], soft=True)] for _ in range(2)]
    rows = pack_each([Document(shared, [[DocumentPart([1]), DocumentPart([3], "sum")]], [0, 0], parallel=True)])
    batch = PairBatch(rows, torch.zeros(2, 4))
    assert batch.visible(alone=False)[0, 6].tolist() == [True] * 7 + [False]
    assert batch.visible(alone=True)[0, 6].tolist() == [False, False, True] * 2 + [True, False]
    # A thought is read after its own prompt in any case, and experts do not see each other.
    assert batch.visible(alone=True)[0, 5].tolist() == [False] * 3 + [True] * 3 + [False] * 2


def test_batches_are_the_same_again_and_differ_by_seed(source: PairSource) -> None:
    one, again, other = source.batch(1, 0), source.batch(1, 0), source.batch(2, 0)
    assert torch.equal(one.rows.ids_BT, again.rows.ids_BT)
    assert torch.equal(one.thoughts_NE, again.thoughts_NE)
    assert one.rows.ids_BT.shape != other.rows.ids_BT.shape or not torch.equal(one.rows.ids_BT, other.rows.ids_BT)
    assert one.thoughts_NE.shape == (3 * 3 * SMALL["latent_steps"], 256)
    assert int(one.rows.soft_BT.sum()) == len(one.thoughts_NE)


def test_only_the_map_of_other_names_meets_no_name_of_the_questions(source: PairSource) -> None:
    def names(kind: Any) -> set[str]:
        batch = of_kind(source, kind).batch(1, 1)
        text = " ".join(source.reader.chat.show(row.tolist()) for row in batch.rows.ids_BT)
        return {name for name in HELD_OUT_NAMES if f" {name} " in text}

    assert names("words")
    assert not names("unseen")


def test_what_is_trained_is_what_the_runtime_reads() -> None:
    """The answer that the runtime writes from translated thoughts is, token by token, the likeliest of the trained
    reading, with prompts and without."""
    question = load_questions("notes", 1)[0]
    source = PairSource(settings(latent_steps=6), dtype="float32")
    experts = [f"Notes: {notes}\nRepeat the notes." for notes in question.record["notes"]]
    for alone in (False, True):
        with LatentMAS(
            "tiny",
            models={"answerer": "small"},
            topology=team(alone=alone),
            task="notes",
            dtype="float32",
            thoughts="soft",
            latent_steps=6,
            temperature=0.0,
            runtime="local",
            max_new_tokens=12,
            threads=1,
        ) as mas:
            (answer,) = mas.run([question])
        thoughts = DocumentPart([0] * 6, soft=True)
        shared = [[DocumentPart(source.turn(prompt)), thoughts] for prompt in experts]
        prompt = DocumentPart(source.turn(f"Question: {question.question}\nAnswer."))
        branch = [prompt, DocumentPart(list(answer.answer_token_ids), "sum")]
        rows = pack_each([Document(shared, [branch], [0] * 3, parallel=True)])
        batch = PairBatch(rows, source.think(experts))
        _, whole = answer_loss(source, batch, source.translator.matrix_AB, alone=alone)
        assert whole == 1.0


def test_the_regression_knows_the_words_of_thoughts(source: PairSource) -> None:
    before = check(source, source.translator.matrix_AB)
    after = check(source, fit_words(source, 1))
    assert after["whole"] > before["whole"] + 0.1


def test_a_map_trained_on_answers_is_better_and_resumes_as_if_it_had_not_stopped(source: PairSource) -> None:
    kind = of_kind(source, "answers", num_steps=4)
    cell = StudyCell(name="a", seed=1, settings=kind.settings.to_json())
    states: list[Any] = []
    first_AB = source.translator.matrix_AB

    def keep(state: Any) -> None:
        states.append(deepcopy(state))  # later steps change the tensors

    whole, losses = fit_answers(kind, CellRun(cell, {}, write=keep, save_seconds=0.0), first_AB)
    assert len(losses) == len(states) == 4
    again, more = fit_answers(kind, CellRun(cell, {}, states[1]), first_AB)
    assert torch.equal(again, whole)
    assert more == losses
    assert not torch.equal(whole, first_AB)


def test_models_stay_as_they_are(source: PairSource) -> None:
    before = {name: weight.clone() for name, weight in source.reader.model.named_parameters()}
    kind = of_kind(source, "answers", num_steps=1)
    fit_answers(kind, CellRun(StudyCell(name="a", seed=1), {}), source.translator.matrix_AB)
    assert all(torch.equal(weight, before[name]) for name, weight in source.reader.model.named_parameters())


def given(**changes: Any) -> Namespace:
    return Namespace(**({"teams": "tiny+small", "limit": "4", "seeds": [1, 2], "minute": False} | changes))


def test_cells_judge_every_map_alone_and_the_first_seed_in_all_settings() -> None:
    cells = {cell.name: cell for cell in make_cells(given(teams="tiny+small,small+tiny"))}
    assert {"small-none", "tiny-none", "tiny-small-free-alone", "small-tiny-both-2-alone"} <= cells.keys()
    assert cells["tiny-small-both-2"].after == ("tiny-small-words-2",)
    assert cells["tiny-small-both-2-alone"].after == ("tiny-small-both-2",)
    assert cells["tiny-small-words-1-alone"].settings["controls"] == ["matched", "deranged", "noise"]
    assert cells["tiny-small-words-2-alone"].settings["controls"] == ["matched", "deranged"]
    assert "tiny-small-words-2-all" not in cells
    assert {cell.settings["limit"] for cell in cells.values() if cell.settings["part"] == "judge"} == {4}
    small = make_cells(given(minute=True, limit="1000", seeds=[3, 4]))
    assert {cell.seed for cell in small} == {3}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"teams": "tiny"}, r"teams: got 'tiny'; it must be WRITER\+READER"),
        ({"teams": "tiny+tiny"}, "teams: got 'tiny.tiny'; it must be WRITER"),
        ({"teams": "tiny+small,tiny+small"}, "it must name each team once"),
        ({"teams": "tiny+other"}, "the reader must be tiny or small"),
        ({"teams": "/none+small"}, "there is no such folder"),
        ({"limit": "1"}, "limit: got '1'; it must be a number of questions, at least 2"),
        ({"limit": "many"}, "limit: got 'many'"),
    ],
)
def test_what_is_refused(flags: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        make_cells(given(**flags))


@pytest.mark.parametrize("flags", [["--teams", "tiny"], ["--limit", "0"], ["--only", "nothing"], ["--seeds", "x"]])
def test_a_command_says_what_is_wrong_in_one_line(
    flags: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "study"), *flags]) == 2
    out, err = capfd.readouterr()
    assert not out
    assert err.startswith(f"error: {flags[0]}: got ")
    assert err.count("\n") == 1
    assert not (tmp_path / "study").exists()


def test_a_folder_of_another_study_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.json").write_text('{"study": "front_loading"}')
    assert main([str(tmp_path)]) == 2
    assert "it is of the study front_loading" in capfd.readouterr().err


def row(cell: str, figures: Mapping[str, Any], **own: Any) -> StudyRow:
    named = {"writer": "/models/tiny", "reader": "small", "part": "judge", "alone": True, "kind": "free"} | own
    return StudyRow(cell=cell, seed=1, settings=named, after=[], figures=figures, cpu_seconds=1.0, weights=None)


def test_tables_compare_each_map_with_the_one_without_training() -> None:
    free = row("tiny-small-free-alone", {"verdicts_matched": "1000" * 25, "verdicts_deranged": "0000" * 25})
    words = row(
        "tiny-small-words-1-alone",
        {"verdicts_matched": "1110" * 25, "verdicts_deranged": "1000" * 25, "verdicts_noise": "0" * 100},
        kind="words",
    )
    nothing = StudyRow(
        cell="small-none",
        seed=1,
        settings={"part": "judge", "reader": "small", "alone": False},
        after=[],
        figures={"verdicts_none": "0100" * 25},
        cpu_seconds=1.0,
        weights=None,
    )
    (table,) = make_tables([free, words, nothing])
    assert table.title == "tiny → small: thoughts alone"
    first, second = (dict(zip(table.columns, one, strict=True)) for one in table.rows)
    assert first["map"] == "no training"
    assert str(first["matched"]).startswith("25.0 [")
    assert str(second["none"]).startswith("25.0 [")
    assert str(second["P: matched − deranged"]).startswith("+50.0 [")
    assert str(second["over no training"]).startswith("+50.0 [")
    assert first["over no training"] == first["noise"] == ""
    assert make_tables([]) == []


def test_folders_of_writers_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = find_path("tiny")
    assert place is not None
    (tmp_path / "own").symlink_to(place)
    monkeypatch.chdir(tmp_path)
    assert parse_teams("own+small, small+tiny") == [(str(tmp_path / "own"), "small"), ("small", "tiny")]
