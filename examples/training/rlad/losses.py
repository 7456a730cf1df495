"""The formulas of the policy gradient (RLAD, arXiv 2510.02263; GRPO, arXiv 2402.03300; asymmetric clip: DAPO, arXiv
2503.14476).

Dimensions: G groups, N samples of a group, T tokens of all samples that were drawn, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class GradientSettings:
    """The settings of the policy gradient."""

    clip_low: float = 0.2
    clip_high: float = 0.5
    kl: float = 0.001
    entropy: float = 0.001
    rate: float = 0.03  # times the learning rates of the warm start


def group_advantages(rewards_GN: Tensor) -> Tensor:
    """Return (r − mean) / (s + 1e-6) within each group, s the sample's standard deviation (N − 1): [G, N].

    A group whose rewards are all equal has advantages of 0, also where rounding makes its mean differ from them.
    """
    centred_GN = rewards_GN - rewards_GN.mean(1, keepdim=True)
    advantages_GN = centred_GN / (rewards_GN.std(1, keepdim=True, correction=1) + _EPSILON)
    is_equal_G1 = (rewards_GN == rewards_GN[:, :1]).all(1, keepdim=True)
    return torch.where(is_equal_G1, 0.0, advantages_GN)


def solver_rewards(correct_GN: Tensor, has_hint_G: Tensor) -> Tensor:
    """Return the solver's rewards: 1 for a right answer with a hint, 0 for a wrong one and for every one without."""
    return correct_GN.float() * has_hint_G[:, None].float()


def hint_reward(correct_N: Tensor) -> float:
    """Return the reward of a hint: the mean success of the solver's answers with it. No baseline is subtracted."""
    return float(correct_N.float().mean())


def kl_estimate(log_p_T: Tensor, reference_T: Tensor) -> Tensor:
    """Return an estimate of KL(policy ‖ reference) from each drawn token: r − 1 − ln r with r = reference / policy,
    which is never negative and has the right mean (Schulman 2020; GRPO, equation 4)."""
    log_ratio_T = reference_T - log_p_T
    return log_ratio_T.exp() - 1 - log_ratio_T


def entropy_of(logits_TV: Tensor) -> Tensor:
    """Return the entropy of the next token's distribution, in nats: [T]."""
    log_p_TV = logits_TV.log_softmax(-1)
    return -(log_p_TV.exp() * log_p_TV).sum(-1)


def policy_loss(
    log_p_T: Tensor,
    old_T: Tensor,
    reference_T: Tensor,
    advantages_T: Tensor,
    entropy_T: Tensor,
    settings: GradientSettings,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss and its figures: the mean over tokens of −min(ρ A, clip(ρ, 1 − low, 1 + high) A) + β KL − α H,
    ρ the ratio of the policy to the one that drew the token. Every token counts the same (DAPO)."""
    ratio_T = (log_p_T - old_T).exp()
    clipped_T = ratio_T.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    gain_T = torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    kl_T = kl_estimate(log_p_T, reference_T)
    loss = (-gain_T + settings.kl * kl_T - settings.entropy * entropy_T).mean()
    figures = {
        "kl": float(kl_T.detach().mean()),
        "entropy": float(entropy_T.detach().mean()),
        "clipped": float((ratio_T != clipped_T).float().mean()),
    }
    return loss, figures
