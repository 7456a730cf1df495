"""Training by rewards: answers are sampled, and right ones made likelier (GRPO, arXiv 2402.03300).

The advantage of an answer is its reward (1 if it is right) minus the mean of the answers to its problem, divided by
their standard deviation + 1e-6. Each batch is used for one step, so no ratio is clipped, and there is no KL term.
"""

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from examples.tiny_model.optimizing import MasterWeights
from examples.training.front_loading.documents import CHAT, END_ID, PAD_ID
from examples.training.front_loading.families import FAMILIES, StepProblem, make_problem
from examples.training.front_loading.judge import TEST_STEPS, grade, prompts_of, write_answers
from examples.training.front_loading.sizes import RewardSize
from examples.training.studies.cell import CellRun

_EPSILON = 1e-6


def train_by_rewards(run: CellRun, model: Any, tokenizer: Tokenizer, size: RewardSize) -> dict[str, Any]:
    """Train `model` in place on problems of all families; return the mean reward of the first and the last steps."""
    weights, step, rewards = MasterWeights(model), 0, []
    if run.resumed is not None:
        weights.load(run.resumed["weights"])
        step, rewards = run.resumed["step"], run.resumed["rewards"]
    while step < size.num_steps:
        seed = f"{run.cell.seed} rewards {step}"
        rng = Random(seed)
        torch.manual_seed(rng.getrandbits(32))
        problems = [
            make_problem(rng, rng.choice(tuple(FAMILIES)), rng.randint(*TEST_STEPS)) for _ in range(size.num_problems)
        ]
        rewards.append(_step(model, tokenizer, problems, size, weights))
        step += 1
        run.save(partial(_state, weights, step, rewards))
    some = max(1, size.num_steps // 8)
    return {"first_reward": sum(rewards[:some]) / some, "last_reward": sum(rewards[-some:]) / some}


def advantages_of(rewards_PS: Tensor) -> Tensor:
    """Return the advantages [P, S] of S answers to each of P problems."""
    mean, deviation = rewards_PS.mean(1, keepdim=True), rewards_PS.std(1, keepdim=True)
    return (rewards_PS - mean) / (deviation + _EPSILON)


def _state(weights: MasterWeights, step: int, rewards: list[float]) -> dict[str, Any]:
    return {"weights": weights.state(), "step": step, "rewards": rewards}


def _step(
    model: Any, tokenizer: Tokenizer, problems: Sequence[StepProblem], size: RewardSize, weights: MasterWeights
) -> float:
    """Sample answers and take one step; return the mean reward."""
    asked = [problem for problem in problems for _ in range(size.num_samples)]
    prompts = prompts_of(tokenizer, asked, CHAT)
    prompts_BP, written_BT = write_answers(model, tokenizer, prompts, temperature=1.0)
    rewards_B = torch.tensor(grade(tokenizer, asked, written_BT)).float()
    advantages_B = advantages_of(rewards_B.view(len(problems), size.num_samples)).flatten()
    used = advantages_B.abs() > _EPSILON  # where all answers are equally good there is nothing to learn
    if used.any():
        likely_BT = token_log_probabilities(model, prompts_BP[used], written_BT[used])
        is_end_BT = written_BT[used].eq(END_ID).long()
        is_written_BT = (is_end_BT.cumsum(1) - is_end_BT).eq(0)  # up to the end, which is included
        loss = -(advantages_B[used, None] * likely_BT * is_written_BT).sum() / is_written_BT.sum()
        loss.backward()
        weights.step(size.rate)
    return float(rewards_B.mean())


def token_log_probabilities(model: Any, prompts_BP: Tensor, written_BT: Tensor) -> Tensor:
    """Return the log probability [B, T] of each written token, with gradient. Prompts are padded on the left."""
    ids = torch.cat([prompts_BP, written_BT], dim=1)
    is_token = torch.cat([prompts_BP.ne(PAD_ID), torch.ones_like(written_BT, dtype=torch.bool)], dim=1)
    positions = (is_token.long().cumsum(1) - 1).clamp_min(0)
    model.train()
    hidden = model.model(
        input_ids=ids, attention_mask=is_token.long(), position_ids=positions, use_cache=False
    ).last_hidden_state
    logits_BTV = model.lm_head(hidden[:, prompts_BP.shape[1] - 1 : -1]).float()
    likely_BT: Tensor = logits_BTV.log_softmax(-1).gather(-1, written_BT[..., None]).squeeze(-1)
    return likely_BT
