"""Moving keys: a rotation by a, then by b, is one by a + b, and it is what RoPE itself does."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latentmas_ray.memory import RopeSpec, rotate_keys

INV_FREQ = tuple(10_000.0 ** (-i / 4) for i in range(4))
FULL = RopeSpec("default", INV_FREQ)
SHIFTS = st.integers(-30_000, 30_000)


def keys(*, num_tokens: int = 5, head_dim: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(2, num_tokens, head_dim, generator=torch.Generator().manual_seed(seed))


def by_formula(keys_HTD: Tensor, positions: list[int]) -> Tensor:
    """RoPE as complex numbers: pair (i, i + R/2) times e^(i·position·frequency), in fp64."""
    half = len(INV_FREQ)
    pairs = torch.complex(keys_HTD[..., :half].double(), keys_HTD[..., half : 2 * half].double())
    angles = torch.tensor(positions, dtype=torch.float64)[:, None] * torch.tensor(INV_FREQ, dtype=torch.float64)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag, keys_HTD[..., 2 * half :].double()], dim=-1)


@given(SHIFTS, SHIFTS)
def test_rotations_add_up(first: int, second: int) -> None:
    twice = rotate_keys(rotate_keys(keys(), first, FULL), second, FULL)
    torch.testing.assert_close(twice, rotate_keys(keys(), first + second, FULL), atol=2e-6, rtol=0)


@given(SHIFTS)
def test_the_way_back_is_the_inverse(shift: int) -> None:
    back = rotate_keys(rotate_keys(keys(), shift, FULL), -shift, FULL)
    torch.testing.assert_close(back, keys(), atol=2e-6, rtol=0)


@given(SHIFTS)
def test_lengths_of_keys_do_not_change(shift: int) -> None:
    torch.testing.assert_close(rotate_keys(keys(), shift, FULL).norm(dim=-1), keys().norm(dim=-1))


@pytest.mark.parametrize("head_dim", [8, 12])
@pytest.mark.parametrize("shift", [1, 37, 4096, 131_072, -3])
def test_a_moved_key_is_the_key_computed_there(shift: int, head_dim: int) -> None:
    raw = keys(head_dim=head_dim)
    here, there = [10, 11, 12, 13, 14], [10 + shift + i for i in range(5)]
    moved = rotate_keys(by_formula(raw, here).float(), shift, FULL)
    torch.testing.assert_close(moved.double(), by_formula(raw, there), atol=2e-6, rtol=0)


def test_dimensions_behind_the_rotary_ones_stay() -> None:
    raw = keys(head_dim=12)
    assert torch.equal(rotate_keys(raw, 99, FULL)[..., 8:], raw[..., 8:])


def test_no_shift_changes_no_bit() -> None:
    raw = keys()
    assert torch.equal(rotate_keys(raw, 0, FULL), raw)


def test_the_given_keys_stay_what_they_were() -> None:
    raw, before = keys(), keys()
    rotate_keys(raw, 7, FULL)
    assert torch.equal(raw, before)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_low_precision_is_rounded_once(dtype: torch.dtype, rounding: float) -> None:
    raw = keys().to(dtype)
    moved = rotate_keys(raw, 20_001, FULL)
    assert moved.dtype == dtype
    exact = rotate_keys(raw.float(), 20_001, FULL)
    assert ((moved.float() - exact).abs() <= rounding * exact.abs() + 1e-7).all()


def test_a_factor_in_the_keys_is_not_applied_again() -> None:
    factor = 0.1 * math.log(4) + 1
    yarn = RopeSpec("yarn", INV_FREQ)
    torch.testing.assert_close(rotate_keys(factor * keys(), 5, yarn), factor * rotate_keys(keys(), 5, yarn))


def test_layers_and_rows_may_lead() -> None:
    raw = torch.randn(3, 2, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    whole = rotate_keys(raw, 11, FULL)
    assert torch.equal(whole[1, 0], rotate_keys(raw[1, 0], 11, FULL))


INTERLEAVED = RopeSpec("default", INV_FREQ, is_interleaved=True)
ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # of pairs as halves, so that each pair is adjacent


@pytest.mark.parametrize("head_dim", [8, 12])
@pytest.mark.parametrize("shift", [1, -37, 131_072])
def test_interleaved_pairs_are_halves_in_another_order(shift: int, head_dim: int) -> None:
    order = [*ORDER, *range(8, head_dim)]
    raw = keys(head_dim=head_dim)
    assert torch.equal(rotate_keys(raw[..., order], shift, INTERLEAVED), rotate_keys(raw, shift, FULL)[..., order])


@given(SHIFTS, SHIFTS)
def test_rotations_of_interleaved_pairs_add_up(first: int, second: int) -> None:
    twice = rotate_keys(rotate_keys(keys(), first, INTERLEAVED), second, INTERLEAVED)
    torch.testing.assert_close(twice, rotate_keys(keys(), first + second, INTERLEAVED), atol=2e-6, rtol=0)


def test_without_rope_a_key_is_the_same_everywhere() -> None:
    raw = keys()
    assert rotate_keys(raw, 37, None) is raw
