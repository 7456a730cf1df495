"""The puzzles of the RLAD study, the teacher's hints, and the prompts of its two agents."""

from dataclasses import replace
from itertools import islice
from random import Random

import pytest

from examples.training.rlad.judge import TEAM
from examples.training.rlad.task.machine import (
    RULES,
    MachineProblem,
    RuleStep,
    machine_questions,
    problems,
    read_rule,
    rule_words,
)
from examples.training.rlad.task.prompts import HINTER, SOLVER, hinter_prompt, solver_prompt
from examples.training.rlad.task.teacher import ADVICE, leak_words, teacher_hint
from examples.training.rlad.warm_start import leaks
from latentmas_ray import Topology
from latentmas_ray.tasks import Question, answer_form, grade
from latentmas_ray.topology.prompts import format_context, render_messages

PROBLEM = MachineProblem((RuleStep("double", 2), RuleStep("add", 2)), ((3, 8), (5, 12), (9, 20)), 4)


def test_a_problem_has_its_question_work_and_gold() -> None:
    assert PROBLEM.question == (
        "A machine turns 3 into 8, 5 into 12 and 9 into 20. What comes out if 4 goes through it twice?"
    )
    assert PROBLEM.work == r"4 8 10 20 22. \boxed{22}"
    assert PROBLEM.gold == 22
    assert rule_words(PROBLEM.rule) == "Rule: double, then add 2."


def test_every_rule_is_read_from_its_words() -> None:
    assert all(read_rule(rule_words(rule)) == rule for rule in RULES)
    assert read_rule("Rule: double, then add 20.") is None


def test_one_example_fits_several_rules_and_all_examples_fit_rules_of_one_effect() -> None:
    first = [rule for rule in RULES if PROBLEM.fits(rule, PROBLEM.examples[:1])]
    assert {rule_words(rule) for rule in first} >= {"Rule: add 5.", "Rule: add 1, then double."}
    for problem in islice(problems("effect", "train"), 100):
        fitting = [rule for rule in RULES if problem.fits(rule)]
        assert problem.rule in fitting
        golds = {MachineProblem(rule, problem.examples, problem.start).gold for rule in fitting}
        assert golds == {problem.gold}


def test_problems_are_the_same_again_and_no_held_out_one_is_trained() -> None:
    train = list(islice(problems("1", "train"), 500))
    held_out = list(islice(problems("1", "held_out"), 500))
    assert train == list(islice(problems("1", "train"), 500))
    turned = [replace(problem, examples=problem.examples[::-1]) for problem in (*train, *held_out)]
    assert [problem.split for problem in turned] == ["train"] * len(train) + ["held_out"] * len(held_out)


def test_no_rule_contains_the_answer() -> None:
    for problem in islice(problems("leak", "held_out"), 300):
        assert not leaks(problem, rule_words(problem.rule))
        assert leaks(problem, leak_words(problem.gold))


def test_questions_are_graded_and_have_the_rule_as_their_hint() -> None:
    (question,) = machine_questions(1)
    assert question.record["hints"][0].startswith("Rule: ")
    assert grade(question, rf"1 2 3. \boxed{{{question.gold}}}").correct


def test_the_teacher_is_hasty_and_sometimes_gives_the_answer_away() -> None:
    rng = Random(0)
    written = [(problem, teacher_hint(rng, problem)) for problem in islice(problems("teacher", "train"), 600)]
    rules = [(problem, rule) for problem, hint in written if (rule := read_rule(hint)) is not None]
    assert all(problem.fits(rule, problem.examples[:1]) for problem, rule in rules)
    right = sum(problem.fits(rule) for problem, rule in rules) / len(rules)
    assert 0.35 < right < 0.65
    assert 0.05 < sum(hint in ADVICE for _, hint in written) / 600 < 0.15
    assert 0.05 < sum(leaks(problem, hint) for problem, hint in written) / 600 < 0.15


@pytest.mark.parametrize("hint", ["", "Rule: add 5."])
def test_training_has_the_prompts_of_the_topology(hint: str) -> None:
    team = Topology.load(str(TEAM))
    question = Question(id="1", question=PROBLEM.question, kind="number", gold="22", record={})
    contexts = {HINTER: "", SOLVER: format_context([(HINTER, hint)]) if hint else ""}
    form = answer_form("number")
    rendered = {
        agent.name: render_messages(agent, question, context=contexts[agent.name], answer_form=form)
        for agent in team.agents
    }
    assert rendered[SOLVER] == ({"role": "user", "content": solver_prompt(PROBLEM.question, hint)},)
    assert rendered[HINTER] == ({"role": "user", "content": hinter_prompt(PROBLEM.question)},)
