"""KV in fewer bytes: as exact as promised, question by question, and nothing damaged or infinite is coded."""

import tracemalloc
import warnings
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latentmas_ray.errors import SegmentError, WireError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.memory.codec import CODECS, CodecName, coded_bytes, decode_kv, encode_kv, relative_error
from tests.cases.memory import SPEC, reshaped, spec_of

WHOLE_NUMBERS: tuple[CodecName, ...] = ("int8", "int4")
# levels of a group, least tokens of a group of keys, channels of a group of values of head dim 128
GRIDS = {"int8": (255, 32, 64), "int4": (16, 36, 128)}
DTYPES = ["float32", "bfloat16", "float16"]
QWEN3 = reshaped(SPEC, num_layers=28, num_kv_heads=8, head_dim=128, dtype="bfloat16")
LENGTHS = st.lists(st.one_of(st.just(0), st.integers(1, 5), st.integers(30, 110)), max_size=5)
SIZES = st.sampled_from([1, 3, 4, 7, 80, 127, 128, 192, 256])


def make_kv(spec: KVCacheSpec, lengths: Sequence[int], seed: int = 0) -> Tensor:
    """Random numbers; some channels of the keys are large, some lie far from zero."""
    generator = torch.Generator().manual_seed(seed)
    shape = (spec.num_layers, 2, spec.num_kv_heads, sum(lengths), spec.head_dim)
    kv = torch.randn(shape, generator=generator)
    channels = torch.randn(spec.head_dim, generator=generator)
    kv[:, 0] = kv[:, 0] * channels.exp() + 10 * channels * (channels > 1)
    return kv.to(spec.torch_dtype)


def there_and_back(kv: Tensor, lengths: Sequence[int], codec: CodecName, spec: KVCacheSpec) -> Tensor:
    return decode_kv(encode_kv(kv, lengths, codec), lengths, codec, spec)


def step_of(numbers: Tensor, dim: int, codec: CodecName) -> Tensor:
    """The largest scale that a group along `dim` may have: 1.2 % more than needed."""
    high, low = numbers.amax(dim, keepdim=True), numbers.amin(dim, keepdim=True)
    needed = torch.maximum(numbers.abs().amax(dim, keepdim=True) / 127, (high - low) / (GRIDS[codec][0] - 1))
    return (1.012 * needed).expand_as(numbers)


def steps_of(kv: Tensor, lengths: Sequence[int], codec: CodecName) -> Tensor:
    """`step_of` each number, with the groups as they are described."""
    _, group_tokens, group_channels = GRIDS[codec]
    steps = torch.empty_like(kv, dtype=torch.float64)
    for keys, out in zip(kv[:, 0].double().split(list(lengths), 2), steps[:, 0].split(list(lengths), 2), strict=True):
        length = keys.shape[2]
        number = max(1, length // group_tokens)
        for index in range(number if length else 0):
            window = slice(index * length // number, (index + 1) * length // number)
            out[:, :, window] = step_of(keys[:, :, window], 2, codec)
    head_dim = kv.shape[-1]
    number = next(n for n in range(max(1, head_dim // group_channels), 0, -1) if head_dim % n == 0)
    values = kv[:, 1].double().unflatten(-1, (number, -1))
    steps[:, 1] = (step_of(values, -1, codec) if values.numel() else values).flatten(-2)
    return steps


def assert_within_half_a_step(kv: Tensor, decoded: Tensor, lengths: Sequence[int], codec: CodecName) -> None:
    kind = torch.finfo(kv.dtype)
    # Below its smallest normal number, floats of a kind are as far apart as those above it.
    rounding = kind.eps / 2 * decoded.double().abs().clamp(min=kind.smallest_normal)
    bound = steps_of(kv, lengths, codec) / 2 + rounding + 2.0**-126
    assert ((kv.double() - decoded.double()).abs() <= bound).all()


@given(LENGTHS, SIZES, st.sampled_from(DTYPES), st.sampled_from(WHOLE_NUMBERS), st.integers(0, 2**31))
def test_every_number_is_within_half_a_step(
    lengths: list[int], head_dim: int, dtype: str, codec: CodecName, seed: int
) -> None:
    spec = reshaped(spec_of(dtype), head_dim=head_dim, rope=replace(SPEC.rope, inv_freq=()))
    kv = make_kv(spec, lengths, seed)
    before = kv.clone()
    decoded = there_and_back(kv, lengths, codec, spec)
    assert decoded.is_contiguous()
    assert (decoded.shape, decoded.dtype) == (kv.shape, kv.dtype)
    assert_within_half_a_step(kv, decoded, lengths, codec)
    assert torch.equal(kv, before)


def test_tiny_numbers_of_half_precision_are_within_half_a_step_too() -> None:
    """One of these draws a channel of the keys whose numbers are below the smallest normal float16."""
    spec, lengths = reshaped(spec_of("float16"), head_dim=192, rope=replace(SPEC.rope, inv_freq=())), [1, 1, 4, 1, 1]
    kv = make_kv(spec, lengths, seed=13401)
    assert (kv.abs() < torch.finfo(kv.dtype).smallest_normal).any()
    for codec in WHOLE_NUMBERS:
        assert_within_half_a_step(kv, there_and_back(kv, lengths, codec, spec), lengths, codec)


@given(LENGTHS, SIZES, st.sampled_from(DTYPES), st.sampled_from(CODECS))
def test_sizes_are_known_beforehand(lengths: list[int], head_dim: int, dtype: str, codec: CodecName) -> None:
    spec = reshaped(spec_of(dtype), head_dim=head_dim, rope=replace(SPEC.rope, inv_freq=()))
    body = encode_kv(make_kv(spec, lengths), lengths, codec)
    assert (body.dtype, body.ndim, body.is_contiguous()) == (torch.uint8, 1, True)
    assert body.nbytes == coded_bytes(lengths, codec, spec)


@given(LENGTHS, st.sampled_from(DTYPES), st.sampled_from(CODECS), st.randoms(use_true_random=False))
def test_a_question_is_the_same_in_every_company(
    lengths: list[int], dtype: str, codec: CodecName, random: Random
) -> None:
    spec = spec_of(dtype)
    questions = list(make_kv(spec, lengths).split(lengths, 3))
    alone = [there_and_back(kv, kv.shape[3:4], codec, spec) for kv in questions]
    order = random.sample(range(len(lengths)), len(lengths))
    if not order:
        return
    shuffled = [lengths[index] for index in order]
    together = there_and_back(torch.cat([questions[index] for index in order], 3), shuffled, codec, spec)
    for index, decoded in zip(order, together.split(shuffled, 3), strict=True):
        assert torch.equal(decoded, alone[index])


def test_a_neighbour_of_huge_numbers_changes_nothing() -> None:
    spec = spec_of("float32")
    kv = make_kv(spec, [40, 40])
    kv[:, :, :, 40:] = kv[:, :, :, 40:].sign() * torch.finfo(torch.float32).max
    for codec in WHOLE_NUMBERS:
        decoded = there_and_back(kv, [40, 40], codec, spec)
        assert torch.equal(decoded[:, :, :, :40], there_and_back(kv[:, :, :, :40], [40], codec, spec))


def test_layers_are_independent_however_many_are_coded_at_a_time() -> None:
    spec = reshaped(SPEC, num_layers=3, num_kv_heads=8, head_dim=128, dtype="bfloat16")
    for lengths in ([700, 3], [1100]):
        kv = make_kv(spec, lengths)
        for codec in WHOLE_NUMBERS:
            decoded = there_and_back(kv, lengths, codec, spec)
            for layer in range(3):
                one = there_and_back(kv[layer : layer + 1], lengths, codec, reshaped(spec, num_layers=1))
                assert torch.equal(decoded[layer], one[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_none_changes_no_bit_and_copies_nothing(dtype: str) -> None:
    spec = spec_of(dtype)
    kv = make_kv(spec, [3, 0, 2])
    kv.view(-1)[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    body = encode_kv(kv, [3, 0, 2], "none")
    decoded = decode_kv(body, [3, 0, 2], "none", spec)
    assert body.data_ptr() == decoded.data_ptr() == kv.data_ptr()
    assert torch.equal(decoded.view(torch.uint8), kv.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bf16_is_a_cast(dtype: str) -> None:
    spec = spec_of(dtype)
    kv = make_kv(spec, [3, 0, 2])
    decoded = there_and_back(kv, [3, 0, 2], "bf16", spec)
    assert torch.equal(decoded, kv.bfloat16().to(kv.dtype))
    assert (decoded.data_ptr() == kv.data_ptr()) is (dtype == "bfloat16")


@pytest.mark.parametrize(("codec", "least"), [("int8", 1.9), ("int4", 3.6)])
@pytest.mark.parametrize("length", [300, 40])
def test_sizes_of_a_known_shape(codec: CodecName, least: float, length: int) -> None:
    stated = {("int8", 300): 59960, ("int8", 40): 59674, ("int4", 300): 31638, ("int4", 40): 31494}
    num_bytes = coded_bytes([length] * 8, codec, QWEN3)
    assert round(num_bytes / (8 * length)) == stated[codec, length]
    assert 8 * length * QWEN3.bytes_per_token / num_bytes >= least


@pytest.mark.parametrize("codec", WHOLE_NUMBERS)
def test_only_a_question_of_one_token_grows(codec: CodecName) -> None:
    assert all(coded_bytes([length], codec, QWEN3) < length * QWEN3.bytes_per_token for length in range(2, 400))
    assert QWEN3.bytes_per_token < coded_bytes([1], codec, QWEN3) < 1.01 * QWEN3.bytes_per_token


@pytest.mark.parametrize("codec", CODECS)
def test_a_body_of_another_size_is_refused(codec: CodecName) -> None:
    body = encode_kv(make_kv(SPEC, [3, 2]), [3, 2], codec)
    for wrong in (body[:-1], body[:0], torch.cat([body, body[:1]])):
        with pytest.raises(WireError, match=f"{codec} KV is (truncated|too long): {wrong.nbytes} bytes instead of"):
            decode_kv(wrong, [3, 2], codec, SPEC)
    with pytest.raises(WireError):
        decode_kv(body, [3, 1], codec, SPEC)


@pytest.mark.parametrize("codec", CODECS)
def test_lengths_that_lie_allocate_nothing(codec: CodecName) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="truncated"):
            decode_kv(torch.zeros(9, dtype=torch.uint8), [2**60, 2**60], codec, QWEN3)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_lengths_of_another_kv_are_refused() -> None:
    for codec in CODECS:
        with pytest.raises(SegmentError, match="KV of 5 tokens for lengths"):
            encode_kv(make_kv(SPEC, [3, 2]), [3, 1], codec)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("offset", [0, 1, 2])
def test_read_only_bytes_are_read_wherever_they_begin(codec: CodecName, offset: int) -> None:
    spec, lengths = spec_of("bfloat16"), [40, 0, 3]
    kv = make_kv(spec, lengths)
    body = encode_kv(kv, lengths, codec)
    pages = np.concatenate([np.zeros(offset, np.uint8), body.numpy()])
    pages.flags.writeable = False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        shared = [torch.from_numpy(pages)[offset:], torch.from_numpy(pages[offset:])]
    for arrived in shared:
        assert torch.equal(decode_kv(arrived, lengths, codec, spec), decode_kv(body, lengths, codec, spec))
    assert np.array_equal(pages[offset:], body.numpy())


@pytest.mark.parametrize("codec", WHOLE_NUMBERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", [0, 1])
def test_what_is_not_finite_does_not_become_a_number(codec: CodecName, dtype: str, bad: float, part: int) -> None:
    kv = make_kv(spec_of(dtype), [40, 3])
    kv[1, part, 1, 41, 2] = bad
    with pytest.raises(SegmentError, match="not finite"):
        encode_kv(kv, [40, 3], codec)
    assert not there_and_back(kv, [40, 3], "bf16", spec_of(dtype))[1, part, 1, 41, 2].isfinite()


@pytest.mark.parametrize("codec", WHOLE_NUMBERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_whole_range_of_a_dtype_stays_finite(codec: CodecName, dtype: str) -> None:
    spec, limits = spec_of(dtype), torch.finfo(spec_of(dtype).torch_dtype)
    numbers = [limits.max, limits.min, 0.97 * limits.max, limits.tiny, limits.smallest_normal / 2, 0.0, 1.0]
    generator = torch.Generator().manual_seed(0)
    for mask in range(1, 2 ** len(numbers)):
        chosen = torch.tensor([n for bit, n in enumerate(numbers) if mask >> bit & 1], dtype=spec.torch_dtype)
        kv = chosen[torch.randint(len(chosen), (2, 2, 2, 3, 4), generator=generator)]
        decoded = there_and_back(kv, [3], codec, spec)
        assert decoded.isfinite().all()
        # At the end of the range the nearest step may be beyond it.
        bound = steps_of(kv, [3], codec) + limits.eps / 2 * decoded.double().abs() + 2.0**-126
        assert ((kv.double() - decoded.double()).abs() <= bound).all()


@pytest.mark.parametrize("codec", WHOLE_NUMBERS)
def test_zeros_stay_zero_beside_anything(codec: CodecName) -> None:
    kv = make_kv(SPEC, [50])
    kv[:, :, :, ::3] = 0
    kv[0] = 0
    assert (there_and_back(kv, [50], codec, SPEC)[kv == 0] == 0).all()


@pytest.mark.parametrize("codec", WHOLE_NUMBERS)
def test_numbers_far_from_zero_are_as_exact_with_four_bits_as_with_eight(codec: CodecName) -> None:
    kv = 50 + torch.rand(2, 2, 2, 40, 4, generator=torch.Generator().manual_seed(0))
    assert ((there_and_back(kv, [40], codec, SPEC) - kv).abs() <= 0.5 * 1.012 * 51 / 127).all()


def test_a_channel_of_large_keys_costs_its_neighbours_nothing() -> None:
    spec = reshaped(SPEC, head_dim=128)
    kv = torch.randn(2, 2, 2, 300, 128, generator=torch.Generator().manual_seed(0))
    kv[:, 0, :, :, 7] *= 100
    for codec, bound in (("int8", 0.007), ("int4", 0.1)):
        keys, decoded = kv[:, 0], there_and_back(kv, [300], codec, spec)[:, 0]
        assert relative_error(keys[..., :7], decoded[..., :7]) < bound
        assert relative_error(keys[..., 7], decoded[..., 7]) < bound


def test_the_error_is_relative_to_the_signal() -> None:
    kv = torch.full((3, 2, 2, 5, 4), 2.0)
    assert relative_error(kv, kv) == 0
    assert relative_error(kv[:, :, :, :0], kv[:, :, :, :0]) == 0
    assert relative_error(torch.zeros_like(kv), torch.zeros_like(kv)) == 0
    assert relative_error(torch.zeros_like(kv), kv) == float("inf")
    assert relative_error(kv, kv * 1.25) == pytest.approx(0.25)
    assert relative_error(kv * 1e30, kv * 1.25e30) == pytest.approx(0.25)
    assert relative_error(kv.half(), kv.bfloat16() * 1.25) == pytest.approx(0.25)


def test_more_bytes_are_more_exact() -> None:
    lengths = [300, 40]
    spec = reshaped(SPEC, head_dim=128)
    kv = make_kv(spec, lengths)
    errors = [relative_error(kv, there_and_back(kv, lengths, codec, spec)) for codec in CODECS]
    assert errors[0] == 0
    assert errors == sorted(errors)
    assert errors[1] < 0.003
    assert errors[2] < 0.01
    assert errors[3] < 0.12
