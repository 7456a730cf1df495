"""One answer of several: what stands in rows, and how a whole run is decided."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.errors import ConfigError
from latentmas_ray.runs.decisions.accuracies import read_accuracies
from latentmas_ray.runs.decisions.decide import DecisionSettings, decide_one, decide_run
from latentmas_ray.runs.decisions.describe import describe_decision, outcome_of_vote
from latentmas_ray.runs.decisions.figures import vote_figures
from latentmas_ray.runs.decisions.votes import AnswerVote, RowDecision
from latentmas_ray.runs.results import Answer
from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.question import Question
from latentmas_ray.voting.rules import RULES

AGENTS = ("weak", "fair", "good", "best")
ACCURACIES = dict(zip(AGENTS, (0.4, 0.6, 0.75, 0.95), strict=True))
CHOICES = "ABCD"


def choice(number: int) -> Question:
    record = {"question": f"Which is it, number {number}?", "options": {one: f"option {one}" for one in CHOICES}}
    return Question(
        id=f"q{number}",
        question=record["question"] + "\n" + "\n".join(f"{one}) option {one}" for one in CHOICES),
        kind="choice",
        gold=CHOICES[number % 4],
        record=record,
    )


def number_question(number: int) -> Question:
    return Question(id=f"q{number}", question="How many?", kind="number", gold="7", record={"question": "How many?"})


def vote(agent: str, label: str | None, gold: str | None = "7", sample: int = 0, **more: Any) -> AnswerVote:
    return AnswerVote(
        agent=agent,
        sample=sample,
        seed=5 + sample,
        answer="" if label is None else f"{agent}: \\boxed{{{label}}}",
        answer_token_ids=(1, 2),
        prediction=label,
        label=label,
        correct=None if gold is None else label == gold,
        **more,
    )


def answer(question: Question, votes: Sequence[AnswerVote], settings: DecisionSettings | None = None) -> Answer:
    decision = decide_one(question, votes, settings or DecisionSettings(votes=True))
    return Answer(
        id=question.id,
        question=question.question,
        gold=question.gold,
        answer="",
        answer_token_ids=(),
        prediction=None,
        correct=None,
        seconds=1.0,
        votes=tuple(votes),
        decision=decision,
    )


def drawn(count: int, seed: int = 0) -> tuple[list[Question], list[Answer]]:
    """Four agents of different accuracies on questions with four options."""
    draw, questions, answers = random.Random(seed), [], []
    for number in range(count):
        question = choice(number)
        gold = str(question.gold)
        votes = []
        for agent, accuracy in ACCURACIES.items():
            wrong = draw.choice([one for one in CHOICES if one != gold])
            votes.append(vote(agent, gold if draw.random() < accuracy else wrong, gold))
        questions.append(question)
        answers.append(answer(question, votes, DecisionSettings(rule="ow", votes=True)))
    return questions, answers


def by_id(questions: Sequence[Question]) -> dict[str, Question]:
    return {question.id: question for question in questions}


def accuracy(answers: Sequence[Answer]) -> float:
    return sum(bool(one.correct) for one in answers) / len(answers)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("accuracies", [None, ACCURACIES])
def test_every_rule_decides_a_run_whatever_the_order_of_its_answers(
    rule: Any, accuracies: dict[str, float] | None
) -> None:
    questions, answers = drawn(60)
    settings = DecisionSettings(rule=rule, accuracies=accuracies, seed=3, votes=True)
    decided = decide_run(answers, by_id(questions), settings)
    assert [one.id for one in decided] == [one.id for one in answers]
    mixed = list(answers)
    random.Random(1).shuffle(mixed)
    again = {one.id: one for one in decide_run(mixed, by_id(questions), settings)}
    assert all(again[one.id] == one for one in decided)
    # Deciding what is decided changes nothing: as a resumed run does.
    assert decide_run(decided, by_id(questions), settings) == decided
    for one in decided:
        assert one.decision is not None
        assert one.decision.is_final
        assert one == Answer.from_row(one.to_row())
        label = one.decision.label
        assert one.prediction == label
        assert one.answer == next(own.answer for own in one.votes if own.label == label)


def test_known_accuracies_beat_the_majority() -> None:
    questions, answers = drawn(300)
    found = {
        rule: accuracy(decide_run(answers, by_id(questions), DecisionSettings(rule=rule, accuracies=given, votes=True)))
        for rule, given in (("majority", None), ("ow", ACCURACIES))
    }
    assert found["ow"] > found["majority"] + 0.02


def test_rule_ow_without_accuracies_estimates_them() -> None:
    questions, answers = drawn(300)
    decided = decide_run(answers, by_id(questions), DecisionSettings(rule="ow", votes=True))
    decision = decided[0].decision
    assert decision is not None
    assert decision.rule == "ow-l"
    weights = decision.weights
    assert weights["weak"] < weights["fair"] < weights["good"] < weights["best"]


def test_samples_of_an_agent_have_the_same_weight() -> None:
    draw, questions, answers = random.Random(4), [], []
    for number in range(80):
        question = choice(number)
        votes = []
        for agent in ("weak", "best"):
            for sample in range(3):
                is_right = draw.random() < ACCURACIES[agent]
                votes.append(vote(agent, str(question.gold) if is_right else draw.choice(CHOICES), sample=sample))
        questions.append(question)
        answers.append(answer(question, votes))
    decided = decide_run(answers, by_id(questions), DecisionSettings(rule="ow-l", votes=True))
    decision = decided[0].decision
    assert decision is not None
    assert decision.weights["best"] == decision.weights["best/1"] == decision.weights["best/2"]
    assert decision.weights["best"] > decision.weights["weak"] == decision.weights["weak/2"]


def test_until_all_questions_are_in_the_majority_decides() -> None:
    question = number_question(0)
    votes = [vote("a", "7"), vote("b", "5"), vote("c", "5")]
    decision = decide_one(question, votes, DecisionSettings(rule="isp", votes=True))
    assert (decision.rule, decision.label, decision.is_final) == ("majority", "5", False)
    assert "when all questions are answered" in describe_decision(decision)
    assert decide_one(question, votes, DecisionSettings(votes=True)).is_final


def test_answers_with_one_voter_are_left_alone() -> None:
    question = number_question(0)
    alone = replace(answer(question, [vote("a", "7"), vote("b", "7")]), votes=(), decision=None)
    assert decide_run([alone], by_id([question]), DecisionSettings(rule="ow-l", votes=True)) == [alone]


def test_an_option_that_no_voter_gave_can_win() -> None:
    """Where all voters are worse than chance, as a file of accuracies says."""
    question = choice(0)
    votes = [vote("a", "B", "A"), vote("b", "C", "A"), vote("c", "D", "A")]
    below = DecisionSettings(rule="ow", accuracies=dict.fromkeys("abc", 0.1), votes=True)
    (decided,) = decide_run([answer(question, votes)], by_id([question]), below)
    assert (decided.answer, decided.prediction, decided.correct) == ("\\boxed{A}", "A", True)
    assert decided.answer_token_ids == ()
    assert decided == Answer.from_row(decided.to_row())


def test_figures_of_votes() -> None:
    question = number_question(0)
    first = answer(question, [vote("a", "7"), vote("a", "5", sample=1), vote("b", None)])
    second = answer(number_question(1), [vote("a", "5"), vote("a", "5", sample=1), vote("b", "5")])
    figures = vote_figures([(one.votes, one.decision) for one in (first, second) if one.decision is not None])
    assert figures is not None
    assert (figures.num_questions, figures.num_tied, figures.any_right, figures.all_same) == (2, 1, 0.5, 0.5)
    assert (figures.agents["a"].answers, figures.agents["a"].right, figures.agents["a"].accuracy) == (4, 1, 0.25)
    assert figures.agents["b"].no_vote == 1
    assert vote_figures([]) is None


def test_words_about_votes() -> None:
    assert outcome_of_vote(vote("a", "7")) == "right"
    assert outcome_of_vote(vote("a", "5")) == "wrong"
    assert outcome_of_vote(vote("a", None)) == "no vote"
    assert outcome_of_vote(vote("a", "5", None)) == "not graded"
    assert outcome_of_vote(vote("a", None, error="it broke")) == "no answer"
    assert "no vote" in describe_decision(RowDecision(rule="majority", label=None, num_options=2))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("own.yaml", "a: 0.5", "it has no accuracy of agent b; it has a"),
        ("own.yaml", "a: 0.5\nb: 1", "decide_accuracies: got 'b: 1'; it must be a number between 0 and 1"),
        ("own.yaml", "a: 0\nb: 0.5", "decide_accuracies: got 'a: 0'"),
        ("own.yaml", "a: .nan\nb: 0.5", "decide_accuracies: got 'a: nan'"),
        ("own.yaml", "a: true\nb: 0.5", "decide_accuracies: got 'a: True'"),
        ("own.yaml", "a: high\nb: 0.5", "decide_accuracies: got 'a: high'"),
        ("own.yaml", "- 0.5", "it must be a FILE.yaml or FILE.json with `AGENT: ACCURACY`"),
        ("own.yaml", "", "it must be a FILE.yaml or FILE.json"),
        ("own.yaml", "a: [", "it must be a FILE.yaml or FILE.json"),
        ("own.json", "{", "it must be a FILE.yaml or FILE.json"),
        ("own.json", '{"a": 0.5, "b": -1}', "decide_accuracies: got 'b: -1'"),
    ],
)
def test_accuracies_that_are_none(name: str, content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_accuracies(str(path), ["a", "b"])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_accuracies_of_a_file_and_of_a_run(tmp_path: Path) -> None:
    for name, content in (("own.yaml", "a: 0.5\nb: 0.75\nc: 2"), ("own.json", '{"a": 0.5, "b": 0.75}')):
        (tmp_path / name).write_text(content)
        assert read_accuracies(str(tmp_path / name), ["b", "a"]) == {"a": 0.5, "b": 0.75}
    with pytest.raises(ConfigError) as caught:  # what was given is named, and not a file in it
        read_accuracies(str(tmp_path), ["a"])
    assert f"decide_accuracies: got '{tmp_path}'; it cannot be read: it has no summary.json" in str(caught.value)
    for missing in (tmp_path / "no.yaml", tmp_path, tmp_path / ("x" * 300), "x" * 300):
        with pytest.raises(ConfigError, match="it cannot be read"):
            read_accuracies(str(missing), ["a"])
    (tmp_path / "summary.json").write_text('{"votes": {"agents": {"a": {"right": 9, "graded": 9}}}}')
    assert read_accuracies(str(tmp_path), ["a"]) == {"a": 0.95}
    (tmp_path / "summary.json").write_text('{"votes": null}')
    with pytest.raises(ConfigError, match="no graded answers of several agents or samples"):
        read_accuracies(str(tmp_path), ["a"])


def test_questions_of_the_built_in_sample_can_vote() -> None:
    from latentmas_ray.voting.answers import option_labels

    assert all(option_labels(question) is not None for question in load_questions("sample", None))
