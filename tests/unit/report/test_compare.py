"""Comparing runs: pairs, costs relative to single, gains over controls, errors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError, JournalError
from latentmas_ray.report.compare import Comparison, compare_folders
from latentmas_ray.runs.journal import Journal
from latentmas_ray.runs.results import AgentUse, Answer
from latentmas_ray.runs.summary import summarise
from latentmas_ray.seeds import seed_output
from latentmas_ray.stats import compare_paired
from latentmas_ray.tasks.question import Question


def use(tokens: int) -> AgentUse:
    return AgentUse(prompt_tokens=tokens, latent_steps=2, output_tokens=tokens // 2, memory_bytes=0, seconds={})


def write_run(
    folder: Path,
    correct: Mapping[str, bool | None],
    *,
    tokens: int = 10,
    seconds: float = 4.0,
    num_resumed: int = 0,
    is_complete: bool = True,
    golds: Mapping[str, str] | None = None,
    **fields: Any,
) -> str:
    """Write a run's output folder, with these answers: right, wrong or not graded."""
    config = RunConfig(output=str(folder), task="made-up.jsonl", **fields)
    golds = golds or {}
    questions = [
        Question(id=name, question=f"{name}?", kind="text", gold=golds.get(name, "yes"), record={}) for name in correct
    ]
    answers = [
        Answer(
            id=question.id,
            question=question.question,
            gold=question.gold,
            answer="",
            answer_token_ids=(),
            prediction=None,
            correct=correct[question.id],
            seconds=1.0,
            agents={"solver": use(tokens)},
        )
        for question in questions
    ]
    with Journal.open(folder, config, questions) as journal:
        journal.record(*answers)
        if is_complete:
            journal.finish(summarise(answers, [], config=config, seconds=seconds, num_resumed=num_resumed))
    return str(folder)


def verdicts(text: str) -> dict[str, bool]:
    """`101` as the answers to q0, q1 and q2: right, wrong, right."""
    return {f"q{index}": digit == "1" for index, digit in enumerate(text)}


def only_gains(comparison: Comparison) -> dict[str, float]:
    return {gain.kind: gain.pair.paired.difference for gain in comparison.gains if gain.pair.paired is not None}


def test_two_runs_are_paired_question_by_question(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", verdicts("11100100"), method="single")
    b = write_run(tmp_path / "b", dict(reversed(verdicts("11011101").items())), method="text")
    comparison = compare_folders([a, b])
    (pair,) = comparison.pairs
    assert (pair.base, pair.other, pair.num_left_out) == ("A", "B", 0)
    assert pair.paired == compare_paired([1, 1, 1, 0, 0, 1, 0, 0], [1, 1, 0, 1, 1, 1, 0, 1])
    assert (pair.only_base_ids, pair.only_other_ids) == (("q2",), ("q3", "q4", "q7"))
    assert [run.accuracy for run in comparison.runs] == [4 / 8, 6 / 8]
    assert comparison.notes == ()


def test_costs_are_relative_to_the_single_agent_in_any_order(tmp_path: Path) -> None:
    text = write_run(tmp_path / "text", verdicts("110"), method="text", tokens=40, seconds=12.0)
    single = write_run(tmp_path / "single", verdicts("100"), method="single", tokens=20, seconds=3.0)
    other_model = write_run(tmp_path / "other", verdicts("100"), method="latent", model="another")
    first, second, third = compare_folders([text, single, other_model]).runs
    assert first.output_tokens_per_question == 20
    assert first.output_tokens_to_single == pytest.approx(2.0)
    assert first.total_tokens_to_single == pytest.approx(62 / 32)
    assert (first.questions_per_second, first.speed_to_single) == (0.25, 0.25)
    assert (second.output_tokens_to_single, second.speed_to_single) == (1.0, 1.0)
    assert (third.output_tokens_to_single, third.speed_to_single) == (None, None)


def test_only_common_graded_questions_are_compared_and_a_note_says_so(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", verdicts("1111"))
    b = write_run(tmp_path / "b", {"q3": False, "q2": None, "q1": True, "q9": True})
    comparison = compare_folders([a, b])
    (pair,) = comparison.pairs
    assert pair.paired is not None
    assert (pair.paired.num_questions, pair.num_left_out) == (2, 3)
    assert any("on the 2 graded questions of both; 3 of only one" in note for note in comparison.notes)


def test_runs_without_a_common_question_are_not_compared(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", {"q0": True})
    b = write_run(tmp_path / "b", {"q1": True})
    comparison = compare_folders([a, b])
    assert comparison.pairs[0].paired is None
    assert "B and A have no graded question in common: they cannot be compared" in comparison.notes
    ungraded = write_run(tmp_path / "c", {"q0": None})
    assert compare_folders([a, ungraded]).runs[1].accuracy is None


def test_another_gold_or_question_under_the_same_id_is_an_error(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", verdicts("11"))
    b = write_run(tmp_path / "b", verdicts("11"), golds={"q1": "no"})
    with pytest.raises(JournalError, match=r"gold of q1: got 'no'; in .*a it is 'yes'"):
        compare_folders([a, b])


def test_gains_over_controls(tmp_path: Path) -> None:
    shared = {"method": "latent", "latent_steps": 5}
    folders = [
        write_run(tmp_path / "matched", verdicts("11111111"), **shared),
        write_run(tmp_path / "deranged", verdicts("11000000"), memory="deranged", **shared),
        write_run(tmp_path / "none", verdicts("10000000"), memory="none", **shared),
        write_run(tmp_path / "prompts", verdicts("11110000"), memory="prompt-only", batch_size=2, **shared),
        write_run(tmp_path / "single", verdicts("11111000"), method="single"),
    ]
    assert only_gains(compare_folders(folders)) == {
        "gain over single": 3 / 8,
        "system gain G": 7 / 8,
        "pairing gain P": 6 / 8,
        "gain over prompt-only": 4 / 8,
    }
    (pairing,) = (gain.pair for gain in compare_folders(folders).gains if gain.kind == "pairing gain P")
    assert (pairing.base, pairing.other) == ("B", "A")
    assert pairing.paired is not None
    assert pairing.paired.interval[0] > 0


def test_a_run_with_other_settings_is_not_a_control(tmp_path: Path) -> None:
    matched = write_run(tmp_path / "matched", verdicts("11"), latent_steps=5)
    deranged = write_run(tmp_path / "deranged", verdicts("00"), memory="deranged", latent_steps=6)
    comparison = compare_folders([matched, deranged])
    assert comparison.gains == ()
    assert any(note.startswith("B (memory deranged) is not a control: ") for note in comparison.notes)


def test_a_guard_that_only_warns_does_not_matter_for_controls(tmp_path: Path) -> None:
    matched = write_run(tmp_path / "a", verdicts("11"), method="latent", guard="warn")
    deranged = write_run(tmp_path / "b", verdicts("10"), method="latent", memory="deranged")
    assert only_gains(compare_folders([matched, deranged])) == {"pairing gain P": 0.5}
    dropping = write_run(tmp_path / "c", verdicts("11"), method="latent", guard="drop")
    comparison = compare_folders([dropping, deranged])
    assert comparison.gains == ()
    assert any("it also differs from a matched run in guard" in note for note in comparison.notes)


def test_seeds_are_averaged_over_each_question(tmp_path: Path) -> None:
    folder = tmp_path / "seeds"
    for seed, digits in ((1, "1100"), (2, "1010"), (3, "1000")):
        write_run(Path(seed_output(str(folder), seed)), verdicts(digits), seed=seed, seconds=2.0)
    base = write_run(tmp_path / "base", verdicts("0111"))
    comparison = compare_folders([base, str(folder)])
    run = comparison.runs[1]
    assert (run.seeds, run.num_questions, run.accuracy) == ((1, 2, 3), 4, pytest.approx(5 / 12))
    assert run.accuracy_half_width is not None
    assert run.questions_per_second == 2.0
    (pair,) = comparison.pairs
    assert pair.paired == compare_paired([0, 1, 1, 1], [1, 1 / 3, 1 / 3, 0])
    assert pair.only_other_ids == ("q0",)
    assert pair.only_base_ids == ("q1", "q2", "q3")


def test_a_seed_without_answers_is_left_out_and_the_rest_is_compared(tmp_path: Path) -> None:
    folder = tmp_path / "seeds"
    write_run(Path(seed_output(str(folder), 1)), verdicts("110"), seed=1)
    write_run(Path(seed_output(str(folder), 2)), {}, seed=2, is_complete=False)
    other = write_run(tmp_path / "other", verdicts("110"), is_complete=False)
    comparison = compare_folders([str(folder), other])
    assert [run.seeds for run in comparison.runs] == [(1,), (42,)]
    assert [run.questions_per_second for run in comparison.runs] == [None, None]
    assert sum("is not finished" in note for note in comparison.notes) == 2


def test_a_seed_whose_questions_all_failed_is_reported(tmp_path: Path) -> None:
    write_run(tmp_path / "seeds" / "seed-1", verdicts("11"), seed=1)
    write_run(tmp_path / "seeds" / "seed-2", {}, seed=2)
    failure = {"id": "q0", "agent": "solver", "error": "lost"}
    (tmp_path / "seeds" / "seed-2" / "failures.jsonl").write_text(json.dumps(failure) + "\n")
    other = write_run(tmp_path / "other", verdicts("11"))
    comparison = compare_folders([str(tmp_path / "seeds"), other])
    assert [run.num_failed for run in comparison.runs] == [1, 0]
    assert any("A failed on 1 questions" in note for note in comparison.notes)


def test_seeds_of_different_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "seed-1", verdicts("1"), seed=1)
    write_run(tmp_path / "seed-2", verdicts("1"), seed=2, latent_steps=7)
    other = write_run(tmp_path / "other", verdicts("1"))
    with pytest.raises(JournalError, match="latent_steps: got '7'; seed 1 has 5"):
        compare_folders([str(tmp_path), other])


def test_a_note_says_that_a_run_was_resumed(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", verdicts("1111"), num_resumed=3, method="single")
    b = write_run(tmp_path / "b", verdicts("1111"), method="text")
    comparison = compare_folders([a, b])
    assert comparison.runs[0].questions_per_second == 0.25
    assert comparison.notes == ("A was resumed: its speed is that since its last start, without 3 questions",)


def test_the_base_may_be_any_folder(tmp_path: Path) -> None:
    a, b, c = (write_run(tmp_path / name, verdicts("1")) for name in "abc")
    assert [run.folder for run in compare_folders([a, b, c], b).runs] == [b, a, c]
    assert [run.folder for run in compare_folders([a], c).runs] == [c, a]
    assert [run.folder for run in compare_folders([a, b], f"{a}/../b").runs] == [f"{a}/../b", a]


def test_one_folder_or_a_repeated_one_is_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", verdicts("1"))
    with pytest.raises(ConfigError, match="at least two"):
        compare_folders([a])
    with pytest.raises(ConfigError, match="at least two"):
        compare_folders([a], a)
    with pytest.raises(ConfigError, match="is given twice"):
        compare_folders([a, f"{a}/"])


def test_the_command_prints_tables_that_fit_80_columns(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "single", verdicts("1100"), method="single", tokens=20)
    write_run(tmp_path / "latent", verdicts("1110"))
    write_run(tmp_path / "deranged", verdicts("0100"), memory="deranged")
    assert main(["compare", "single", "latent", "deranged", "--answers"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert max(len(line) for line in out.splitlines()) <= 80
    for words in (
        "B − A",
        "+25.0 (",
        "McNemar",
        "pairing gain P",
        "only the first",
        "A = single",
        "(0.50×)",
        "as fast",
        "B right, A wrong (1): q2",
    ):
        assert words in out


def test_the_command_prints_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a, b = (write_run(tmp_path / name, verdicts("10")) for name in "ab")
    assert main(["compare", a, b, "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed == json.loads(json.dumps(compare_folders([a, b]).to_json()))
    assert printed["pairs"][0]["paired"]["difference"] == 0


@pytest.mark.parametrize("folders", [["none", "other"], ["empty", "other"], ["s3://bucket/run", "other"]])
def test_a_folder_without_a_run_gives_a_one_line_error(
    folders: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "other", verdicts("1"))
    assert main(["compare", *folders]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert folders[0] in err


def test_a_run_without_answers_cannot_be_compared(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", {}, is_complete=False), write_run(tmp_path / "b", verdicts("1"))
    with pytest.raises(JournalError, match="no answers yet"):
        compare_folders([a, b])
