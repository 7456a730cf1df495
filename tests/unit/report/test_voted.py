"""Votes over runs and over files: what counts as a vote, what is judged, and the folder that is written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError, InputError, JournalError, TaskError
from latentmas_ray.report import load_run
from latentmas_ray.report.compare import compare_folders
from latentmas_ray.report.voted.evaluate import VoteOutcome, vote_on
from latentmas_ray.report.voted.run_votes import ballots_of
from latentmas_ray.report.voted.write import check_output, write_vote
from latentmas_ray.runs.hints.rows import HintUse
from latentmas_ray.runs.results import Failure
from latentmas_ray.stats import compare_paired
from latentmas_ray.voting.rules import RULES
from tests.cases.report import make_answer, write_run
from tests.cases.vote_runs import rows_of, write_voter, write_votes
from tests.cases.votes import drawn_votes

RIGHT = ["0", "2", "4", "6", "8", "10"]


def three_runs(folder: Path, **config: Any) -> list[str]:
    """Right on 5, 4 and 3 of 6 questions."""
    answers = {"a": [*RIGHT[:5], "7"], "b": ["0", "2", "9", "6", "8", "7"], "c": ["0", None, "4", "1", "8", "3"]}
    return [write_voter(folder / name, found, **config) for name, found in answers.items()]


def voted(given: list[str], options: int | str | None = None, **settings: Any) -> VoteOutcome:
    return vote_on(ballots_of(given, options), **settings)


def test_runs_vote_and_every_rule_is_compared_with_majority_and_the_best_run(tmp_path: Path) -> None:
    outcome = voted(three_runs(tmp_path))
    report = outcome.report
    assert (report.num_questions, report.num_judged, report.num_calibrated, report.best) == (6, 6, 0, "a")
    assert [rule.rule for rule in report.rules] == [rule for rule in RULES if rule != "ow"]
    assert {voter.name: (voter.num_votes, voter.accuracy) for voter in report.voters} == {
        "a": (6, 5 / 6), "b": (6, 4 / 6), "c": (5, 3 / 6)
    }  # fmt: skip
    assert report.voters[2].share_right == 3 / 5
    majority = report.rules[0]
    assert [one.label for one in outcome.decisions["majority"]] == [*RIGHT[:5], "7"]
    assert majority.accuracy == 5 / 6
    assert majority.to_majority is None
    assert majority.to_best == compare_paired([1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0])
    # A question has at most two different answers here, so one more is possible.
    assert report.num_options.startswith("3 (open")
    assert "1 of 18 answers are missing or cannot be read: they are no votes" in report.notes
    assert any("share a base model (3 of tiny)" in note for note in report.notes)


def test_questions_that_one_run_failed_on_are_decided_by_the_others(tmp_path: Path) -> None:
    a = write_voter(tmp_path / "a", RIGHT)
    b = write_voter(tmp_path / "b", ["0", "failed", "1", "6", "8", "10"])
    outcome = voted([a, b])
    assert [len(one.weights) for one in outcome.decisions["majority"]] == [2, 1, 2, 2, 2, 2]


def test_only_questions_that_all_were_asked_count_and_a_note_says_so(tmp_path: Path) -> None:
    a, b = write_voter(tmp_path / "a", RIGHT), write_voter(tmp_path / "b", ["0", "2", "3"])
    report = voted([a, b]).report
    assert report.num_judged == 3
    assert any(
        note.startswith("questions that not all runs were asked") and note.endswith(": 3") for note in report.notes
    )


def test_each_seed_is_an_agent(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_voter(tmp_path / "both" / f"seed-{seed}", RIGHT, seed=seed)
    other = write_voter(tmp_path / "other", [*RIGHT[:5], "7"])
    report = voted([str(tmp_path / "both"), other]).report
    assert [voter.name for voter in report.voters] == ["both/seed-1", "both/seed-2", "other"]


def with_hints(folder: Path, *by_hint: str) -> str:
    """A run that gave these answers to q0, q1, …, a text for each hint; `-`: it failed."""
    config = RunConfig(task="sums", topology="abstraction", abstractions=len(by_hint), latent_steps=3)
    answers, failures = [], []
    for number, predictions in enumerate(by_hint, start=1):
        hint = {"number": number, "of": len(by_hint), "source": "own"}
        for index, prediction in enumerate(predictions):
            name = f"q{index}.hint-{number}"
            if prediction == "-":
                failures.append(Failure(id=name, agent="solver", error="it fell"))
                continue
            gold, use = str(2 * index), HintUse(question=f"q{index}", **hint)
            graded = {"gold": gold, "prediction": prediction, "correct": prediction == gold}
            answers.append(replace(make_answer(index, config), id=name, hint=use, **graded))
    return str(write_run(folder, answers, config=config, failures=failures))


def test_each_hint_is_an_agent_and_votes_on_the_question_itself(tmp_path: Path) -> None:
    """Copies of one question would count as questions of their own in intervals."""
    hinted = with_hints(tmp_path / "hinted", "024", "03-")
    report = voted([hinted, write_voter(tmp_path / "a", RIGHT)]).report
    assert [voter.name for voter in report.voters] == ["hinted/hint-1", "hinted/hint-2", "a"]
    assert (report.num_judged, [voter.num_votes for voter in report.voters]) == (3, [3, 2, 3])
    assert [voter.accuracy for voter in report.voters] == [1, 1 / 3, 1]
    outcome = voted([hinted])  # two hints are two agents
    assert outcome.report.num_judged == 3
    ballots = ballots_of([hinted])
    write_vote(outcome, ballots, "majority", tmp_path / "voted")
    run = load_run(tmp_path / "voted")
    assert [answer.id for answer in run.answers] == ["q0", "q1", "q2"]
    assert (run.config.abstractions, run.answers[0].hint) == (None, None)
    one = with_hints(tmp_path / "one", "024")
    assert voted([one, hinted]).report.voters[0].name == "one"


def test_runs_with_one_name_are_told_by_their_paths(tmp_path: Path) -> None:
    given = [write_voter(tmp_path / name / "run", [*RIGHT[:5], name]) for name in ("7", "8")]
    assert [voter.name for voter in voted(given).report.voters] == given


def test_calibration_sees_the_golds_of_some_questions_and_judges_the_others(tmp_path: Path) -> None:
    outcome = voted(three_runs(tmp_path), calibrate=2, seed=3)
    report = outcome.report
    assert (report.num_judged, report.num_calibrated) == (4, 2)
    assert [rule.rule for rule in report.rules] == list(RULES)
    known = outcome.rules["ow"].accuracies
    assert known is not None
    judged = {ballot.question.id for ballot in outcome.judged}
    right = {"a": "11111-", "b": "11-11-", "c": "1-1-1-"}
    seen = [number for number in range(6) if f"q{number}" not in judged]
    for name, marks in right.items():
        votes = [number for number in seen if (name, number) != ("c", 1)]
        assert known[name] == pytest.approx((sum(marks[n] == "1" for n in votes) + 1 / 3) / (len(votes) + 1))
    assert {one.question.id for one in voted(three_runs(tmp_path / "x"), calibrate=2, seed=3).judged} == judged
    drawn = {tuple(one.question.id for one in voted(given, calibrate=2, seed=seed).judged)
             for given in [[str(tmp_path / name) for name in "abc"]] for seed in range(5)}  # fmt: skip
    assert len(drawn) > 1


@pytest.mark.parametrize("number", [6, 7, 0])
def test_calibration_must_leave_something_to_judge(number: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="6 questions have a gold"):
        voted(three_runs(tmp_path), calibrate=number)


def test_choices_have_the_options_of_each_question(tmp_path: Path) -> None:
    records = [
        {"id": "q0", "question": "What is 0 plus 0?", "choices": ["0", "1"], "gold": "A"},
        {"id": "q1", "question": "What is 1 plus 1?", "choices": ["0", "1", "2"], "gold": "C"},
    ]
    task = write_votes(tmp_path / "task.jsonl", records)
    texts = ["What is 0 plus 0?\nA. 0\nB. 1", "What is 1 plus 1?\nA. 0\nB. 1\nC. 2"]
    runs = []
    for name, found in {"a": "AC", "b": "BD"}.items():
        runs.append(write_voter(tmp_path / name, list(found), golds=["A", "C"], task=task))
        path = Path(runs[-1]) / "results.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text(
            "".join(json.dumps({**row, "question": text}) + "\n" for row, text in zip(rows, texts, strict=True))
        )
    for stays in (True, False):  # without the file its questions are read from the rows
        if not stays:
            Path(task).unlink()
        outcome = voted(runs)
        assert outcome.report.num_options == "2 to 3"
        assert [ballot.votes.options for ballot in outcome.judged] == [("A", "B"), ("A", "B", "C")]
        assert outcome.judged[1].votes.votes == {"a": "C", "b": None}
        assert any("is not here as it was" in note for note in outcome.report.notes) is not stays
    with pytest.raises(ConfigError, match="options: got '4'; the questions have their own"):
        voted(runs, 4)


def test_a_task_whose_golds_have_changed_is_not_believed(tmp_path: Path) -> None:
    records = [{"id": f"q{n}", "question": f"What is {n} plus {n}?", "gold": str(3 * n)} for n in range(6)]
    report = voted(three_runs(tmp_path, task=write_votes(tmp_path / "task.jsonl", records))).report
    assert any("is not here as it was" in note for note in report.notes)
    assert report.rules[0].accuracy == 5 / 6  # by the golds of the runs


def test_programs_are_not_voted_on(tmp_path: Path) -> None:
    given = three_runs(tmp_path, task="humanevalplus")
    with pytest.raises(TaskError, match="its answers are programs"):
        voted(given)


def test_the_number_of_possible_answers_can_be_said(tmp_path: Path) -> None:
    assert voted(three_runs(tmp_path), 30).report.num_options == "30"
    with pytest.raises(ConfigError, match=r"[23] different labels"):
        voted([*three_runs(tmp_path / "x"), write_voter(tmp_path / "d", ["5"] * 6)], 2)


def test_a_file_of_votes_may_have_golds_options_and_gaps(tmp_path: Path) -> None:
    rows = rows_of({"x": "AAB-", "y": "ABBC", "z": "ACBC"}, golds="AABC", options=["A", "B", "C"])
    outcome = voted(
        [
            write_votes(
                tmp_path / "votes.jsonl", [*rows, {"question": 4, "agent": "x", "answer": "Z", "options": ["A", "B"]}]
            )
        ]
    )
    assert outcome.report.num_options == "2 to 3"
    assert [one.label for one in outcome.decisions["majority"]][::2] == ["A", "B", None]
    assert outcome.report.rules[0].num_undecided == 1
    assert any("1 of 5 questions have no gold" in note for note in outcome.report.notes)


def test_numbers_in_a_file_are_compared_by_value_and_texts_as_graded(tmp_path: Path) -> None:
    rows = [
        {"question": "x", "agent": agent, "answer": answer} for agent, answer in (("a", 18), ("b", "18.0"), ("c", 2))
    ]
    assert voted([write_votes(tmp_path / "n.jsonl", rows)], "open").decisions["majority"][0].label == "18"
    rows = [
        {"question": "x", "agent": agent, "answer": answer}
        for agent, answer in (("a", "Rome"), ("b", "rome."), ("c", "3"))
    ]
    assert voted([write_votes(tmp_path / "t.jsonl", rows)], 9).decisions["majority"][0].label == "Rome"


def test_without_golds_questions_are_decided_and_not_judged(tmp_path: Path) -> None:
    rows = rows_of({"x": "AABB", "y": "AABC", "z": "CABB"}, options=3)
    outcome = voted([write_votes(tmp_path / "votes.jsonl", rows)])
    assert outcome.report.best is None
    assert all(rule.accuracy is None and rule.to_majority is None for rule in outcome.report.rules)
    assert all(voter.accuracy is None for voter in outcome.report.voters)
    assert outcome.report.effective_votes is not None  # what accuracies explain is estimated by ow-l
    assert any("no question has a gold" in note for note in outcome.report.notes)


def test_agents_that_copy_each_other_are_told(tmp_path: Path) -> None:
    votes, golds = drawn_votes(200, 4, seed=0)
    rows = [
        {
            "question": one.question,
            "agent": agent,
            "answer": one.votes[source],
            "gold": golds[one.question],
            "options": 4,
        }
        for one in votes
        for agent, source in (("a", "a"), ("copy", "a"), ("c", "c"))
    ]
    report = voted([write_votes(tmp_path / "votes.jsonl", rows)]).report
    assert (report.pairs[0].one, report.pairs[0].other, report.pairs[0].is_notable) == ("a", "copy", True)
    assert report.effective_votes == pytest.approx(1.8, abs=0.2)
    (note,) = [note for note in report.notes if "agents agree more" in note]
    assert "a and copy on 100.0 % of the questions" in note


@pytest.mark.parametrize("rule", ["majority", "isp", "ow-l"])
def test_the_folder_is_that_of_a_run_which_costs_what_all_its_runs_cost(rule: Any, tmp_path: Path) -> None:
    given = three_runs(tmp_path)
    ballots = ballots_of(given)
    outcome, folder = vote_on(ballots), tmp_path / "voted"
    write_vote(outcome, ballots, rule, folder)
    run = load_run(folder)
    assert (run.config.method, run.config.topology, run.config.model) == ("vote", rule, "tiny")
    assert [answer.correct for answer in run.answers] == [
        one.label == gold for one, gold in zip(outcome.decisions[rule], RIGHT, strict=True)
    ]
    assert run.answers[0].answer == "It is 0."
    assert list(run.answers[0].agents) == ["a/judger", "b/judger", "c/judger"]
    assert run.answers[5].agents["c/judger"].text == "It is 3."
    comparison = compare_folders([given[0], str(folder)])
    first, other = comparison.runs
    assert other.accuracy == next(one.accuracy for one in outcome.report.rules if one.rule == rule)
    assert other.output_tokens_to_single == pytest.approx(3)
    assert other.speed_to_single == pytest.approx(1 / 3)
    assert first.accuracy == 5 / 6
    told = json.loads((folder / "vote.json").read_text())
    assert told["rule"] == rule
    rows = [json.loads(line) for line in (folder / "votes.jsonl").read_text().splitlines()]
    assert rows[1]["votes"] == {"a": "2", "b": "2", "c": None}
    assert set(rows[1]["weights"]) == {"a", "b"}


def test_votes_of_several_models_name_them(tmp_path: Path) -> None:
    given = [write_voter(tmp_path / model, [*RIGHT[:5], model], model=model) for model in ("7", "8")]
    ballots = ballots_of(given)
    write_vote(vote_on(ballots), ballots, "majority", tmp_path / "voted")
    assert load_run(tmp_path / "voted").config.model_names == "7 (8: 8)"


def test_a_folder_with_results_is_not_written_to(tmp_path: Path) -> None:
    given = three_runs(tmp_path)
    with pytest.raises(ConfigError, match="is already there"):
        check_output(given[0])
    with pytest.raises(ConfigError, match="a folder on this machine"):
        check_output("s3://bucket/voted")


def test_runs_of_other_questions_are_told(tmp_path: Path) -> None:
    a = write_voter(tmp_path / "a", RIGHT)
    other = write_voter(tmp_path / "b", ["1", "2", "4"], golds=["1", "2", "4"])
    with pytest.raises(JournalError, match="gold of q0"):
        voted([a, other])
    far = tmp_path / "far"
    write_voter(far, ["0", "2"])
    path = far / "results.jsonl"
    path.write_text(path.read_text().replace('"id": "q', '"id": "x'))
    with pytest.raises(JournalError, match="it has no question of"):
        voted([a, str(far)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a"], "at least two runs"),
        (["a", "a/"], "it is given twice"),
        (["a", "nothing"], "there is no such folder"),
        (["a", "votes.jsonl"], "it is a file"),
        (["a", "x" * 300], "no such folder|cannot be read"),
        (["a", ""], "run: got ''; it must be the output folder of a run"),
    ],
)
def test_folders_that_are_no_runs_are_told(
    given: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_voter(tmp_path / "a", RIGHT)
    (tmp_path / "votes.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        voted(given)


GOOD = {"question": 1, "agent": "x", "answer": "A", "options": 3}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "votes.jsonl:3: got '{'; it must be one JSON object with question, agent and answer"),
        ("[1]", "votes.jsonl:3: got '[1]'; it must be one JSON object"),
        ('{"agent": "x", "answer": "A"}', "votes.jsonl:3: question: got 'nothing'"),
        ('{"question": 2, "answer": "A"}', "votes.jsonl:3: agent: got 'nothing'"),
        ('{"question": 2, "agent": "x"}', "votes.jsonl:3: answer: got 'nothing'; each line must have one"),
        ('{"question": 2, "agent": "x", "answer": [1]}', "votes.jsonl:3: answer"),
        ('{"question": 2, "agent": "x", "answer": true}', "votes.jsonl:3: answer"),
        ('{"question": 1, "agent": "x", "answer": "B"}', "votes.jsonl:3: agent: got 'x'; it has answered question 1"),
        (
            '{"question": 1, "agent": "z", "answer": "B", "options": 4}',
            "votes.jsonl:3: options: got '4'; a line before has 3",
        ),
        ('{"question": 2, "agent": "z", "answer": "B", "options": 1}', "votes.jsonl:3: options: got '1'; it must be"),
        ('{"question": 2, "agent": "z", "answer": "B", "options": ["B"]}', "at least 2 options"),
        ('{"question": 2, "agent": "z", "answer": "B", "options": ["B", "C"], "gold": "D"}', "one of the options B, C"),
        ('{"question": 1, "agent": "z", "answer": "B", "gold": 2.5, "options": NaN}', "votes.jsonl:3"),
        ('{"question": 2, "agent": "z", "answer": "B"}', "options: got 'nothing'"),
        (
            '{"question": 2, "agent": "z", "answer": "B", "gold": " "}',
            "votes.jsonl:3: gold: got ' '; it must not be empty",
        ),
        ("\xff", "votes.jsonl:3"),
    ],
)
def test_lines_that_are_no_votes_are_told_with_their_number(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    first = [json.dumps(GOOD), json.dumps({**GOOD, "agent": "y", "answer": "B"})]
    path.write_bytes("\n".join([*first, line]).encode("latin-1"))
    with pytest.raises(InputError) as error:
        voted([str(path)])
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "at least two agents, and has those of 0"),
        (rows_of({"x": "AB"}, options=3), "at least two agents, and has those of 1"),
        (rows_of({"x": "--", "y": "--"}, options=3), "no agent has an answer"),
        (rows_of({"x": "AA", "y": "AA"}, options=3), "the answer of all agents to all questions"),
        (rows_of({"x": "AB", "y": "AC"}), "options: got 'nothing'"),
        (rows_of({"x": "AB", "y": "BC", "z": "CB"}, options=2), "3 different labels"),
    ],
)
def test_files_that_nothing_can_be_decided_from_are_told(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    with pytest.raises((TaskError, ConfigError)) as error:
        voted([write_votes(tmp_path / "votes.jsonl", rows)])
    assert said in str(error.value)
