"""Codecs of KV that is one tensor [L, 2, H, T, D].

    none   the bytes unchanged
    bf16   every number as bfloat16 (of float16 this loses bits and saves nothing)
    int8   a scale for every group of numbers, and a byte for each of them (see `QuantScheme`)
    int4   a scale and a zero point for every group, and half a byte per number

A group of keys is one channel over at least 32 (int8) or 36 (int4) tokens, because some channels are many times larger
than the rest in every token. A group of values is at least 64 or 128 channels of one token (KIVI, arXiv 2402.02750).
What a question decodes to does not depend on the other questions. A question shorter than a group still has its own
scales; one of a single token takes slightly more bytes than as bfloat16.

Bytes a token for L=28, H=8, D=128 (bfloat16: 114688), and how many times smaller that is:

    int8   59960 (1.91) for questions of 300 tokens, 59674 (1.92) of 40 tokens
    int4   31638 (3.63) for questions of 300 tokens, 31494 (3.64) of 40 tokens

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens of all questions one after another, D head dim,
G groups of tokens, S tokens of the longest of them, V groups of channels, P channels of one of them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from latentmas_ray.config import CodecName
from latentmas_ray.errors import SegmentError, WireError
from latentmas_ray.memory.spec import KVCacheSpec

_LARGEST = 127
# Scales are multiplied by this before rounding to bfloat16, so that rounding never makes one too small.
_UP = 1.004
# The smallest normal number, whose inverse is finite: numbers below half of it become zero.
_TINY = 2.0**-126


@dataclass(frozen=True)
class QuantScheme:
    """How finely numbers are quantized: each x becomes the integer n nearest to x/s, −127 ≤ n ≤ 127.

    s is the group's scale, a bfloat16, so |x − n·s| ≤ s/2. With 16 levels the code is n − z, where z is the group's
    smallest n: a group far from zero loses no precision. Numbers in the last tenth of the dtype's range may be off by
    s, so that none becomes infinite.
    """

    num_levels: int  # that the numbers of one group can take
    group_tokens: int
    group_channels: int

    @property
    def is_packed(self) -> bool:
        """Whether a code fits into four bits and every group has a z."""
        return self.num_levels == 16

    def num_token_groups(self, length: int) -> int:
        """The number of groups of a question of `length` tokens, each of at least `group_tokens` tokens unless the
        question is shorter."""
        return max(1, length // self.group_tokens) if length else 0

    def num_channel_groups(self, head_dim: int) -> int:
        """The number of equal groups, each of at least `group_channels` channels; 1 if no such divisor exists."""
        most = max(1, head_dim // self.group_channels)
        return next(number for number in range(most, 0, -1) if head_dim % number == 0)


@dataclass(frozen=True)
class TokenGroups:
    """The tokens that share scales, always of one question. The groups of a question differ by at most one token."""

    tokens_GS: Tensor  # a shorter group repeats its last token, which changes neither its maximum nor its minimum
    group_T: Tensor
    slot_T: Tensor  # the token's index in tokens_GS.view(-1)

    @classmethod
    def of(cls, scheme: QuantScheme, lengths: Sequence[int], device: torch.device) -> "TokenGroups":
        """The groups of questions of these lengths."""
        stops: list[int] = []
        first = 0
        for length in lengths:
            number = scheme.num_token_groups(length)
            stops += [first + (index + 1) * length // number for index in range(number)]
            first += length
        stop_G = torch.tensor(stops, dtype=torch.int64)
        size_G = stop_G.diff(prepend=torch.zeros(1, dtype=torch.int64))
        longest = max(size_G.tolist(), default=0)
        start_G = stop_G - size_G
        tokens_GS = torch.minimum(start_G[:, None] + torch.arange(longest), stop_G[:, None] - 1)
        group_T = torch.repeat_interleave(torch.arange(len(stops)), size_G)
        slot_T = group_T * longest + torch.arange(first) - start_G[group_T]
        return cls(tokens_GS.to(device), group_T.to(device), slot_T.to(device))


def quantize(numbers: Tensor, dim: int, scheme: QuantScheme, largest_of_dtype: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return scales (bfloat16), z (int8) and codes (int8) of fp32 `numbers`, which are overwritten.

    Numbers along `dim` form one group; scales and z lack that dimension. Codes are n − z for 16 levels, else n. Raises
    SegmentError for a number that is not finite.
    """
    high, low = numbers.amax(dim, keepdim=True), numbers.amin(dim, keepdim=True)
    largest = torch.maximum(high, -low)
    peak = float(largest.max())
    if not math.isfinite(peak):
        raise SegmentError("KV that is not finite cannot be quantized")
    # The span of a group is at most num_levels − 1 steps, so its numbers round to at most num_levels values. The two
    # are divided one by one because the difference of two finite numbers may be infinite.
    span = high / (scheme.num_levels - 1) - low / (scheme.num_levels - 1)
    scales = torch.maximum(largest / _LARGEST, span).clamp_min_(_TINY).mul_(_UP).bfloat16()
    inverse = scales.float().reciprocal_()
    # Rarely needed: the last step within the dtype's range.
    last = (largest_of_dtype / scales.double()).floor_().float() if peak > 0.9 * largest_of_dtype else None
    codes = _round(numbers, inverse, last)
    zeros = _round(low, inverse, last)
    if scheme.is_packed:
        codes.sub_(zeros)
    return scales.squeeze(dim), zeros.squeeze(dim), codes


def _round(numbers: Tensor, inverse: Tensor, last: Tensor | None) -> Tensor:
    """Round numbers, in place, to n. A group and its minimum use the same arithmetic, so no n is below z."""
    rounded = numbers.mul_(inverse).round_()
    return (rounded if last is None else rounded.clamp_(-last, last)).to(torch.int8)


def dequantize(steps: Tensor, scales: Tensor, out: Tensor) -> None:
    """`out` = n · s, rounded once. n and s are exact in bfloat16 and fp32, so the product is computed in place; float16
    lacks the range of a scale."""
    if out.dtype == torch.float16:
        out.copy_(steps.float().mul_(scales))
    else:
        out.copy_(steps).mul_(scales)


CODECS: tuple[CodecName, ...] = get_args(CodecName)

SCHEMES = {"int8": QuantScheme(255, 32, 64), "int4": QuantScheme(16, 36, 128)}
# Numbers quantized at a time: on a CPU their fp32 copy must fit its caches, on a GPU there must be few launches.
_CPU_NUMBERS, _GPU_NUMBERS = 2**20, 2**26


def encode_kv(kv_LCHTD: Tensor, lengths: Sequence[int], codec: CodecName) -> Tensor:
    """Return the encoded KV, a flat uint8 tensor on the same device; for "none", and "bf16" of bfloat16, a view.

    Raises SegmentError if `lengths` are not those of the KV, and for int8 and int4 if a number is not finite ("bf16"
    keeps such numbers, and overflows to infinity as every cast does).
    """
    num_layers, _, num_heads, num_tokens, head_dim = kv_LCHTD.shape
    if sum(lengths) != num_tokens:
        raise SegmentError(f"KV of {num_tokens} tokens for lengths {tuple(lengths)}")
    if codec == "none":
        return kv_LCHTD.reshape(-1).view(torch.uint8)
    if codec == "bf16":
        return kv_LCHTD.bfloat16().reshape(-1).view(torch.uint8)
    shapes = _Shapes(SCHEMES[codec], num_layers, num_heads, head_dim, tuple(lengths))
    body = torch.empty(shapes.num_bytes, dtype=torch.uint8, device=kv_LCHTD.device)
    parts, groups = _Parts.of(body, shapes), TokenGroups.of(shapes.scheme, lengths, body.device)
    for layers in _steps(kv_LCHTD):
        _encode_layers(kv_LCHTD[layers], shapes.scheme, groups, parts.take(layers))
    return body


def decode_kv(body: Tensor, lengths: Sequence[int], codec: CodecName, spec: KVCacheSpec) -> Tensor:
    """Return the KV [L, 2, H, sum(lengths), D], contiguous, in the spec's dtype, on the device of `body`.

    `body` is not changed. The result shares its memory for "none", and for "bf16" if the spec says bfloat16. Raises
    WireError, before anything is allocated, if the size of `body` is wrong.
    """
    expected = coded_bytes(lengths, codec, spec)
    if body.nbytes != expected:
        kind = "truncated" if body.nbytes < expected else "too long"
        raise WireError(f"the {codec} KV is {kind}: {body.nbytes} bytes instead of {expected}")
    # A view of wider numbers must begin at a multiple of their size.
    flat = body.contiguous() if body.storage_offset() % 4 == 0 else body.clone()
    shape = (spec.num_layers, 2, spec.num_kv_heads, sum(lengths), spec.head_dim)
    if codec == "none":
        return flat.view(spec.torch_dtype).view(shape)
    if codec == "bf16":
        return flat.view(torch.bfloat16).view(shape).to(spec.torch_dtype)
    shapes = _Shapes.of(spec, lengths, SCHEMES[codec])
    kv_LCHTD = torch.empty(shape, dtype=spec.torch_dtype, device=body.device)
    parts, groups = _Parts.of(flat, shapes), TokenGroups.of(shapes.scheme, lengths, body.device)
    for layers in _steps(kv_LCHTD):
        _decode_layers(parts.take(layers), shapes.scheme, groups, kv_LCHTD[layers])
    return kv_LCHTD


def coded_bytes(lengths: Sequence[int], codec: CodecName, spec: KVCacheSpec) -> int:
    """The exact size of the encoded KV in bytes. Allocates nothing."""
    if codec == "none":
        return sum(lengths) * spec.bytes_per_token
    if codec == "bf16":
        return sum(lengths) * spec.bytes_per_token // spec.torch_dtype.itemsize * torch.bfloat16.itemsize
    return _Shapes.of(spec, lengths, SCHEMES[codec]).num_bytes


def relative_error(kv_LCHTD: Tensor, decoded_LCHTD: Tensor) -> float:
    """RMS of the difference over the RMS of the original; 0 if nothing differs."""
    difference = signal = 0.0
    for original, decoded in zip(kv_LCHTD, decoded_LCHTD, strict=True):
        difference = math.hypot(difference, norm(original.float() - decoded.float()))
        signal = math.hypot(signal, norm(original))
    if difference == 0:
        return 0.0
    return difference / signal if signal else math.inf


def sampled_error(kv_LCHTD: Tensor, lengths: Sequence[int], codec: CodecName, spec: KVCacheSpec) -> float:
    """`relative_error` of a codec, measured on every eighth layer: layers are encoded independently."""
    if codec == "none" or not kv_LCHTD.numel():
        return 0.0
    sample_LCHTD = kv_LCHTD[::8].contiguous()
    shape = replace(spec, layers=spec.layers[: len(sample_LCHTD)])
    return relative_error(sample_LCHTD, decode_kv(encode_kv(sample_LCHTD, lengths, codec), lengths, codec, shape))


def norm(numbers: Tensor) -> float:
    return float(torch.linalg.vector_norm(numbers, dtype=torch.float64))


@dataclass(frozen=True)
class _Shapes:
    """The tensors of an encoded KV."""

    scheme: QuantScheme
    num_layers: int
    num_heads: int
    head_dim: int
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, spec: KVCacheSpec, lengths: Sequence[int], scheme: QuantScheme) -> "_Shapes":
        return cls(scheme, spec.num_layers, spec.num_kv_heads, spec.head_dim, tuple(lengths))

    def parts(self) -> tuple[tuple[torch.dtype, tuple[int, ...]], ...]:
        """Dtypes and shapes in the order of the body; tensors that need alignment come first."""
        scheme, num_tokens = self.scheme, sum(self.lengths)
        keys = (self.num_heads, sum(map(scheme.num_token_groups, self.lengths)), self.head_dim)
        values = (self.num_heads, num_tokens, scheme.num_channel_groups(self.head_dim))
        zeros = self.num_layers if scheme.is_packed else 0
        num_codes = 1 if scheme.is_packed else 2
        return (
            (torch.bfloat16, (self.num_layers, *keys)),
            (torch.bfloat16, (self.num_layers, *values)),
            (torch.int8, (zeros, *keys)),
            (torch.int8, (zeros, *values)),
            (torch.int8, (self.num_layers, num_codes, self.num_heads, num_tokens, self.head_dim)),
        )

    @property
    def num_bytes(self) -> int:
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.parts())


class _Parts(NamedTuple):
    """Views of an encoded KV, of all layers or some."""

    key_scales_LHGD: Tensor
    value_scales_LHTV: Tensor
    key_zeros_LHGD: Tensor  # of no layer where the scheme has no z
    value_zeros_LHTV: Tensor
    codes_LCHTD: Tensor  # packed: C is 1, keys are in the lower four bits and values in the upper

    @classmethod
    def of(cls, body: Tensor, shapes: _Shapes) -> "_Parts":
        parts = shapes.parts()
        views = body.split([dtype.itemsize * math.prod(shape) for dtype, shape in parts])
        return cls(*(view.view(dtype).view(shape) for view, (dtype, shape) in zip(views, parts, strict=True)))

    def take(self, layers: slice) -> "_Parts":
        return _Parts(*(part[layers] for part in self))


def _steps(kv_LCHTD: Tensor) -> Iterator[slice]:
    """Slices of layers that are processed at a time; none for empty KV."""
    num_layers, numbers = kv_LCHTD.shape[0], kv_LCHTD[0, 0].numel()
    if numbers:
        step = max(1, (_GPU_NUMBERS if kv_LCHTD.is_cuda else _CPU_NUMBERS) // numbers)
        yield from (slice(first, first + step) for first in range(0, num_layers, step))


def _encode_layers(kv_LCHTD: Tensor, scheme: QuantScheme, groups: TokenGroups, parts: _Parts) -> None:
    """Encode some layers into `parts`."""
    keys_LHTD, values_LHTD = kv_LCHTD.unbind(1)
    largest = torch.finfo(kv_LCHTD.dtype).max
    keys_LHGSD = keys_LHTD.index_select(2, groups.tokens_GS.view(-1)).unflatten(2, groups.tokens_GS.shape)
    values_LHTVP = values_LHTD.unflatten(3, (parts.value_scales_LHTV.shape[3], -1))
    key_scales_LHGD, key_zeros_LHGD, key_codes_LHGSD = quantize(keys_LHGSD.float(), 3, scheme, largest)
    # A copy: .float() of a float32 KV would be the KV itself, which must not be overwritten.
    value_scales_LHTV, value_zeros_LHTV, value_codes_LHTVP = quantize(
        values_LHTVP.to(torch.float32, copy=True), 4, scheme, largest
    )
    parts.key_scales_LHGD.copy_(key_scales_LHGD)
    parts.value_scales_LHTV.copy_(value_scales_LHTV)
    key_codes_LHTD = key_codes_LHGSD.flatten(2, 3).index_select(2, groups.slot_T)
    value_codes_LHTD = value_codes_LHTVP.flatten(3)
    if scheme.is_packed:
        parts.key_zeros_LHGD.copy_(key_zeros_LHGD)
        parts.value_zeros_LHTV.copy_(value_zeros_LHTV)
        upper_LHTD = value_codes_LHTD.view(torch.uint8).bitwise_left_shift_(4).view(torch.int8)
        torch.bitwise_or(key_codes_LHTD, upper_LHTD, out=parts.codes_LCHTD[:, 0])
    else:
        parts.codes_LCHTD[:, 0] = key_codes_LHTD
        parts.codes_LCHTD[:, 1] = value_codes_LHTD


def _decode_layers(parts: _Parts, scheme: QuantScheme, groups: TokenGroups, out_LCHTD: Tensor) -> None:
    """Decode some layers into `out_LCHTD`."""
    keys_LHTD, values_LHTD = out_LCHTD.unbind(1)
    values_LHTVP = values_LHTD.unflatten(3, (parts.value_scales_LHTV.shape[3], -1))
    if scheme.is_packed:
        bytes_LHTD = parts.codes_LCHTD[:, 0].view(torch.uint8)
        key_steps_LHTD = bytes_LHTD.bitwise_and(15).view(torch.int8)
        key_steps_LHTD += parts.key_zeros_LHGD.index_select(2, groups.group_T)
        value_steps_LHTVP = bytes_LHTD.bitwise_right_shift(4).view(torch.int8).view(values_LHTVP.shape)
        value_steps_LHTVP += parts.value_zeros_LHTV.unsqueeze(4)
    else:
        key_steps_LHTD, value_steps_LHTD = parts.codes_LCHTD.unbind(1)
        value_steps_LHTVP = value_steps_LHTD.unflatten(3, values_LHTVP.shape[3:])
    dequantize(key_steps_LHTD, parts.key_scales_LHGD.index_select(2, groups.group_T), keys_LHTD)
    dequantize(value_steps_LHTVP, parts.value_scales_LHTV.unsqueeze(4), values_LHTVP)
