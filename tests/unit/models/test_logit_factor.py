"""The factor and the cap of a model's logits are found from its logits."""

import pytest
import torch
from transformers import LlamaConfig

from latentmas_ray.models.probe.logits import find_factor

CONFIG = LlamaConfig(vocab_size=64, logits_scaling=8.0, lm_head_multiplier=0.0195, num_hidden_layers=2)
PLAIN_V = torch.randn(64, generator=torch.Generator().manual_seed(3)) * 4


@pytest.mark.parametrize("factor", [1.0, 1 / 8, 8.0, 0.0195, 0.37])
@pytest.mark.parametrize("cap", [None, 30.0])
def test_a_factor_is_found(factor: float, cap: float | None) -> None:
    """One of the configuration or its inverse to the digit, another one as it fits."""
    logits_V = PLAIN_V * factor
    if cap is not None:
        logits_V = cap * torch.tanh(logits_V / cap)
    found = find_factor(PLAIN_V, logits_V, cap, CONFIG)
    assert found == pytest.approx(factor, rel=1e-5)
    assert factor == 0.37 or found == factor


def test_rounding_does_not_hide_it() -> None:
    logits_V = (PLAIN_V.bfloat16() / 8.0).bfloat16().float()
    assert find_factor(PLAIN_V.bfloat16().float(), logits_V, None, CONFIG) == 1 / 8


def test_hidden_tokens_do_not_count() -> None:
    logits_V = PLAIN_V * 8.0
    logits_V[::5] = torch.finfo(torch.float32).min
    assert find_factor(PLAIN_V, logits_V, None, CONFIG) == 8.0
