"""Sampling: one random number per token, the nucleus it says it draws from, the same answer in any company."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.models import sampling
from latentmas_ray.models.sampling import greedy, sample, uniform
from tests.numerics.turns import prompts_of

UNITS = st.floats(0, 1, exclude_max=True)
LOGITS = st.lists(st.floats(-8, 8), min_size=2, max_size=40)


def test_the_random_numbers_are_uniform() -> None:
    numbers = np.array([uniform(42, f"q{question}", "judger", step) for question in range(100) for step in range(100)])
    assert 0 <= numbers.min() < numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    # 19 degrees of freedom: a chi-square above 43.8 happens once in a thousand draws; these are fixed.
    assert ((counts - 500) ** 2 / 500).sum() < 43.8


def test_numbers_of_neighbouring_counters_are_unrelated() -> None:
    grid = np.array([[uniform(0, f"q{question}", "judger", step) for step in range(200)] for question in range(50)])
    by_step = np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]
    by_question = np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]
    assert abs(by_step) < 0.04
    assert abs(by_question) < 0.04


def test_every_part_of_the_counter_counts() -> None:
    base = (1, "q1", "judger", 0)
    others = [(2, "q1", "judger", 0), (1, "q2", "judger", 0), (1, "q1", "critic", 0), (1, "q1", "judger", 1)]
    assert len({uniform(*counter) for counter in [base, *others]}) == 5
    assert uniform(*base) == uniform(*base)


def nucleus(logits: np.ndarray, temperature: float, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and the smallest set of most probable tokens whose mass reaches `top_p`."""
    probs = np.exp((logits - logits.max()) / temperature)
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    size = int(np.searchsorted(np.cumsum(probs[order]), top_p)) + 1
    return probs, order[:size]


@given(LOGITS, UNITS, st.floats(0.1, 3), st.floats(0.05, 1))
def test_draws_come_from_the_nucleus(logits: list[float], number: float, temperature: float, top_p: float) -> None:
    drawn = int(sample(torch.tensor([logits]), torch.tensor([number]).double(), temperature, top_p))
    # A sum that reaches `top_p` but for rounding may take one token more.
    probs, kept = nucleus(np.float32(logits).astype(np.float64), temperature, top_p + 1e-12)
    # Tokens as probable as the last one kept, up to rounding, may stand in for it.
    assert drawn in kept or probs[drawn] >= probs[kept].min() * (1 - 1e-9)


@pytest.mark.parametrize("top_p", [1.0, 0.8, 0.4])
def test_draws_have_the_probabilities_of_the_nucleus(top_p: float) -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, 1.7, 0.0, -3.0])
    numbers = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    drawn = sample(logits.expand(20_000, -1), numbers, 0.9, top_p)
    probs, kept = nucleus(logits.double().numpy(), 0.9, top_p)
    expected = np.zeros(6)
    expected[kept] = probs[kept] / probs[kept].sum()
    np.testing.assert_allclose(np.bincount(drawn.numpy(), minlength=6) / 20_000, expected, atol=1e-4)


@given(LOGITS, UNITS)
def test_a_low_temperature_is_greedy(logits: list[float], number: float) -> None:
    row = torch.tensor([logits])
    best, second = row[0].topk(2).values.tolist()
    # The others have less than e^-100 of the probability, of which a number of exactly 0 may be the first part.
    if best - second < 1e-3 or number < 1e-40:
        return
    assert torch.equal(sample(row, torch.tensor([number]).double(), 1e-5, 1.0), greedy(row))


@given(LOGITS, UNITS)
def test_a_tiny_nucleus_is_greedy(logits: list[float], number: float) -> None:
    row = torch.tensor([logits])
    drawn = sample(row, torch.tensor([number]).double(), 1.0, 1e-6)
    torch.testing.assert_close(row[0, drawn[0]], row.max(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(number: float) -> None:
    row = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]])
    drawn = int(sample(row, torch.tensor([number]).double(), 1.0, 1.0))
    assert drawn == (1 if number == 0 else 2)


@pytest.mark.parametrize("scale", [4.0, 0.1])  # the nucleus has few tokens, and thousands
@pytest.mark.parametrize("top_p", [0.5, 0.95])
def test_a_large_vocabulary_draws_what_sorting_all_of_it_draws(
    scale: float, top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = scale * torch.randn(64, 5000, generator=generator)
    numbers = torch.rand(64, generator=generator, dtype=torch.float64)
    drawn = sample(logits, numbers, 0.8, top_p)
    monkeypatch.setattr(sampling, "_HEAD_TOKENS", 5000)
    assert torch.equal(drawn, sample(logits, numbers, 0.8, top_p))
    assert len(set(drawn.tolist())) > 30


def answers_of(engine: Engine, questions: list[int], settings: Sampling) -> dict[int, list[int]]:
    prompts = prompts_of([9, 1, 33, 4, 17, 2, 25, 12])
    session = engine.open([f"q{question}" for question in questions], num_slots=64)
    session.prefill([prompts[question] for question in questions])
    return dict(zip(questions, session.decode(settings, "judger"), strict=True))


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_answers_do_not_depend_on_batch_or_order(engine: Engine, top_p: float) -> None:
    settings = Sampling(temperature=0.8, top_p=top_p, max_new_tokens=10, seed=5)
    together = answers_of(engine, list(range(8)), settings)
    for questions in ([7, 2, 5], [2], [5, 4, 3, 2, 1, 0]):
        part = answers_of(engine, questions, settings)
        assert part == {question: together[question] for question in questions}
    assert together != answers_of(engine, list(range(8)), Sampling(**{**vars(settings), "seed": 6}))
