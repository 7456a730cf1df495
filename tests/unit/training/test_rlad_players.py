"""Learners and rollout workers of the RLAD study, in this process."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from examples.training.rlad.actors.learner import Learner, PolicyText
from examples.training.rlad.actors.rollouts import DrawnText, PromptToSample, RolloutWorker
from examples.training.rlad.losses import GradientSettings
from examples.training.rlad.policy import SHAPES, load_policy, make_tokenizer, save_policy
from examples.training.rlad.rewards import hits, is_right, solver_texts, trial_of, verdicts
from examples.training.rlad.settings import WarmSettings
from examples.training.rlad.task.machine import MachineProblem, RuleStep, problems, rule_words
from examples.training.rlad.task.prompts import SOLVER, solver_prompt
from examples.training.rlad.warm_start import WarmTexts
from examples.training.studies.folder import pack, unpack
from latentmas_ray.errors import ConfigError

PROMPTS = [
    PromptToSample(str(index), solver_prompt(one.question, rule_words(one.rule)))
    for index, one in enumerate(islice(problems("p", "train"), 3))
]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> RolloutWorker:
    return RolloutWorker(str(tmp_path_factory.mktemp("engine")))


def _texts(num: int = 8) -> list[PolicyText]:
    texts = WarmTexts(make_tokenizer(), WarmSettings(num_steps=1))
    return [
        texts.text("", solver_prompt(problem.question, rule_words(problem.rule)), problem.work)
        for problem in islice(problems("fit", "train"), num)
    ]


def test_a_worker_draws_with_the_weights_that_were_pushed(worker: RolloutWorker) -> None:
    learner = Learner(SOLVER, 1)
    worker.set_weights(SOLVER, 1, learner.weights())
    before = worker.draw(SOLVER, 1, PROMPTS, num=2, temperature=0.0, seed=1)
    for _ in range(3):
        learner.fit(_texts(), 1.0)
    worker.set_weights(SOLVER, 2, learner.weights())
    after = worker.draw(SOLVER, 2, PROMPTS, num=2, temperature=0.0, seed=1)
    assert [len(one) for one in after] == [2, 2, 2]
    assert after[0][0].text != before[0][0].text
    with pytest.raises(AssertionError):
        worker.draw(SOLVER, 1, PROMPTS, num=1, temperature=0.0, seed=1)


def test_a_drawn_text_is_what_its_learner_finds_likely(worker: RolloutWorker) -> None:
    """The tokens that a worker draws greedily are the likeliest ones of the learner, the end included."""
    learner = Learner(SOLVER, 2)
    texts = _texts()
    for _ in range(60):
        learner.fit(texts, 0.5)
    worker.set_weights(SOLVER, 3, learner.weights())
    drawn = worker.draw(SOLVER, 3, PROMPTS, num=1, temperature=0.0, seed=1)
    ended = [one[0].learned for one in drawn if one[0].has_ended]
    assert ended
    assert learner.fit(ended, 0.0)["right"] == 1.0


def test_texts_depend_on_their_ids_and_not_on_the_batch(worker: RolloutWorker) -> None:
    worker.set_weights(SOLVER, 4, Learner(SOLVER, 3).weights())
    together = worker.draw(SOLVER, 4, PROMPTS, num=2, temperature=1.0, seed=5)
    alone = worker.draw(SOLVER, 4, PROMPTS[1:2], num=2, temperature=1.0, seed=5)
    assert [one.text for one in together[1]] == [one.text for one in alone[0]]
    assert together[0][0].text != together[0][1].text


def test_the_policy_gradient_makes_rewarded_texts_likelier() -> None:
    learner = Learner(SOLVER, 1)
    good, bad = _texts(2)
    texts = [replace(good, advantage=1.0), replace(bad, advantage=-1.0)]
    before = [learner.fit([one], 0.0)["loss"] for one in (good, bad)]
    for seed in range(3):
        figures = learner.improve(texts, GradientSettings(rate=0.1), num_batches=1, seed=seed)
    after = [learner.fit([one], 0.0)["loss"] for one in (good, bad)]
    assert after[0] < before[0]
    assert after[1] - after[0] > before[1] - before[0]
    assert figures["kl"] > 0


def test_a_learner_continues_from_its_state() -> None:
    texts, one, other = _texts(), Learner(SOLVER, 1), Learner(SOLVER, 1)
    one.fit(texts, 1.0)
    other.load(unpack(pack(one.state())))
    assert other.fit(texts, 1.0) == one.fit(texts, 1.0)
    for name, value in one.weights().items():
        assert torch.equal(value, other.weights()[name])


def test_answers_become_advantages_within_their_group(worker: RolloutWorker) -> None:
    worker.set_weights(SOLVER, 5, Learner(SOLVER, 3).weights())
    groups = worker.draw(SOLVER, 5, PROMPTS[:2], num=2, temperature=1.0, seed=5)
    texts = solver_texts(groups, [[True, False], [True, False]], [True, False])
    assert [round(text.advantage, 3) for text in texts] == [0.707, -0.707, 0.0, 0.0]


@pytest.mark.parametrize(
    ("answers", "bare", "has_gold", "hits", "is_kept"),
    [
        ([True, True], [True, False], False, 0, True),
        ([True, True], [True, False], True, 0, False),
        ([True, True], [True, False], False, 1, False),
        ([True, False], [True, False], False, 0, False),
    ],
)
def test_a_hint_is_kept_if_it_helps_and_does_not_leak(
    worker: RolloutWorker, answers: list[bool], bare: list[bool], has_gold: bool, hits: int, is_kept: bool
) -> None:
    worker.set_weights(SOLVER, 6, Learner(SOLVER, 3).weights())
    ((drawn,),) = worker.draw(SOLVER, 6, PROMPTS[:1], num=1, temperature=1.0, seed=5)
    trial = trial_of(replace(drawn, has_ended=True), answers, bare, has_gold=has_gold)
    assert replace(trial, num_blind_hits=hits).is_kept(0.1) is is_kept
    assert not trial_of(replace(drawn, has_ended=False), answers, bare, has_gold=False).is_kept(0.1)


def test_answers_are_graded_by_the_project() -> None:
    problem = MachineProblem((RuleStep("add", 5),), ((3, 8), (4, 9), (1, 6)), 7)
    assert is_right(problem, r"7 12 17. \boxed{17}")
    assert not is_right(problem, r"7 12 18. \boxed{18}")


def test_a_policy_folder_is_read_back(tmp_path: Path) -> None:
    weights = Learner(SOLVER, 1).weights()
    save_policy(tmp_path, SHAPES[SOLVER], weights)
    read = load_policy("start", SOLVER, tmp_path)
    assert all(torch.equal(read[name], value) for name, value in weights.items())


def test_a_policy_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no config\.json"):
        load_policy("start", SOLVER, tmp_path)
    save_policy(tmp_path, SHAPES["hinter"], Learner("hinter", 1).weights())
    with pytest.raises(ConfigError, match=r"for the solver: its model\.layers\.2"):
        load_policy("start", SOLVER, tmp_path)


def test_a_right_answer_that_does_not_end_earns_nothing_but_is_a_leak() -> None:
    problem = next(problems("ends", "train"))
    learned = PolicyText([1], [2])
    ended, cut = (DrawnText(problem.work, learned, has_ended=ended) for ended in (True, False))
    wrong = DrawnText("\\boxed{1}", learned, has_ended=True)
    assert verdicts(problem, [ended, cut, wrong]) == [True, False, False]
    assert hits(problem, [ended, cut, wrong]) == [True, True, False]
