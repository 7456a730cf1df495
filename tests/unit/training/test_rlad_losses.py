"""The formulas of the RLAD study, against values worked out by hand and against torch's own."""

import math

import pytest
import torch

from examples.training.rlad.losses import (
    GradientSettings,
    entropy_of,
    group_advantages,
    hint_reward,
    kl_estimate,
    policy_loss,
    solver_rewards,
)


def test_advantages_are_normalised_within_a_group_by_the_samples_deviation() -> None:
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(advantages[0], torch.tensor([1.5, -0.5, -0.5, -0.5]))  # mean 1/4, deviation 1/2
    assert float(advantages[1, 0]) == pytest.approx(0.5 / math.sqrt(1 / 3), rel=1e-4)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.3])
def test_a_group_of_equal_rewards_has_no_advantage(reward: float) -> None:
    assert group_advantages(torch.full((2, 16), reward)).abs().max() == 0


def test_answers_without_a_hint_earn_nothing() -> None:
    rewards = solver_rewards(torch.tensor([[True, False], [True, True]]), torch.tensor([True, False]))
    assert rewards.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_a_hint_earns_the_mean_success_of_its_answers() -> None:
    assert hint_reward(torch.tensor([True, True, False, False, True, True, True, True])) == 0.75


def test_the_estimate_of_the_kl_is_never_negative_and_has_the_right_mean() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    estimate = kl_estimate(p.log(), q.log())
    assert (estimate >= 0).all()
    exact = float((p * (p / q).log()).sum())
    assert float((p * estimate).sum()) == pytest.approx(exact, rel=1e-5)


def test_the_entropy_is_that_of_torch() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(entropy_of(logits), torch.distributions.Categorical(logits=logits).entropy())


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain"),
    [(1.3, 1.0, 1.3), (1.7, 1.0, 1.5), (0.7, 1.0, 0.7), (0.7, -1.0, -0.8), (1.7, -1.0, -1.7)],
)
def test_the_ratio_is_clipped_where_that_lowers_the_gain(ratio: float, advantage: float, gain: float) -> None:
    old = torch.tensor([-1.0])
    loss, _ = policy_loss(
        old + math.log(ratio),
        old,
        old + math.log(ratio),
        torch.tensor([advantage]),
        torch.tensor([0.0]),
        GradientSettings(),
    )
    assert float(loss) == pytest.approx(-gain, rel=1e-5)


def test_kl_and_entropy_are_weighted() -> None:
    log_p = torch.tensor([-1.0, -2.0])
    settings = GradientSettings(kl=0.5, entropy=0.25)
    loss, figures = policy_loss(log_p, log_p, log_p - 0.1, torch.zeros(2), torch.ones(2), settings)
    kl = math.exp(-0.1) - 1 + 0.1
    assert float(loss) == pytest.approx(0.5 * kl - 0.25, rel=1e-5)
    assert figures["kl"] == pytest.approx(kl, rel=1e-4)
