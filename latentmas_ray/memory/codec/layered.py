"""Codecs of KV whose layers cache different tensors: each tensor [H, T, D] is encoded on its own, as in `uniform`.

A key, or the rotary part of a latent attention's key, is grouped by channel over tokens; all else by token over
channels, so too the latent. States are kept as they are: they are few, and every later token depends on them. The
body has the scales of all tensors first, then the zero points, then the codes, then the states; packed codes hold
channel d in the lower half of a byte and channel d + ⌈D/2⌉ in the upper.

Dimensions: H heads, T tokens of all questions one after another, D head dim, G groups of tokens, S tokens of the
longest of them, V groups of channels, P channels of one of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from latentmas_ray.config import CodecName
from latentmas_ray.errors import WireError
from latentmas_ray.memory.codec.uniform import SCHEMES, QuantScheme, TokenGroups, dequantize, norm, quantize
from latentmas_ray.memory.kv_source import KVLayout, KVSource, PackedTensor
from latentmas_ray.memory.layer_spec import TensorSpec

_SAMPLED_LAYERS = 8  # the error is measured on one in so many


def encode_layers(kv: KVSource, codec: CodecName) -> tuple[Tensor, float]:
    """Return the encoded KV, a flat uint8 tensor on the same device, and the relative error of every eighth layer that
    has keys or a latent. Raises SegmentError for int8 and int4 if a number is not finite."""
    layout, buffer = kv.layout, kv.buffer()
    body = torch.empty(coded_layers_bytes(layout, codec), dtype=torch.uint8, device=buffer.device)
    difference = signal = 0.0
    with_slots = [layer for layer, one in enumerate(layout.spec.layers) if one.slot_tensors]
    sampled = set(with_slots[::_SAMPLED_LAYERS])
    for layer, tensor_HTD, coded in _tensors(layout, buffer, body, codec):
        coded.encode(tensor_HTD)
        if layer in sampled and tensor_HTD.dtype != torch.uint8:  # bytes of states stay as they are
            decoded_HTD = torch.empty_like(tensor_HTD)
            coded.decode(decoded_HTD)
            difference = math.hypot(difference, norm(tensor_HTD.float() - decoded_HTD.float()))
            signal = math.hypot(signal, norm(tensor_HTD))
    return body, 0.0 if difference == 0 else difference / signal if signal else math.inf


def decode_layers(body: Tensor, layout: KVLayout, codec: CodecName) -> Tensor:
    """Return the bytes of the KV in its layout. `body` is not changed. Raises WireError if its size is wrong."""
    expected = coded_layers_bytes(layout, codec)
    if body.nbytes != expected:
        kind = "truncated" if body.nbytes < expected else "too long"
        raise WireError(f"the {codec} KV is {kind}: {body.nbytes} bytes instead of {expected}")
    body = body.contiguous() if body.storage_offset() % 4 == 0 else body.clone()  # views of wider numbers
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8, device=body.device)
    for _, tensor_HTD, coded in _tensors(layout, buffer, body, codec):
        coded.decode(tensor_HTD)
    return buffer


def coded_layers_bytes(layout: KVLayout, codec: CodecName) -> int:
    """The exact size of the encoded KV in bytes. Allocates nothing."""
    return sum(sum(parts) for parts in _part_bytes(layout, codec))


def _part_bytes(layout: KVLayout, codec: CodecName) -> list[tuple[int, int, int, int]]:
    """Bytes of each tensor's scales, zero points, codes (all numbers as bfloat16), and state."""
    return [_bytes_of(place, layout, codec) for place in layout.tensors]


def _bytes_of(place: PackedTensor, layout: KVLayout, codec: CodecName) -> tuple[int, int, int, int]:
    if place.spec.state_dims is not None:
        return 0, 0, 0, place.stop_byte - place.first_byte
    if codec == "bf16":
        return 0, 0, 2 * place.spec.num_heads * place.num_tokens * place.spec.head_dim, 0
    return (*_Shape(SCHEMES[codec], place.spec, layout.lengths).part_bytes, 0)


@dataclass(frozen=True)
class _Shape:
    """The parts of one encoded tensor."""

    scheme: QuantScheme
    tensor: TensorSpec
    lengths: tuple[int, ...]

    @property
    def scales(self) -> tuple[int, int, int]:
        """[H, G, D] or [H, T, V]."""
        heads, dim, scheme = self.tensor.num_heads, self.tensor.head_dim, self.scheme
        if self.tensor.is_key:
            return heads, sum(map(scheme.num_token_groups, self.lengths)), dim
        return heads, sum(self.lengths), scheme.num_channel_groups(dim)

    @property
    def codes(self) -> tuple[int, int, int]:
        dim = self.tensor.head_dim
        return self.tensor.num_heads, sum(self.lengths), -(-dim // 2) if self.scheme.is_packed else dim

    @property
    def part_bytes(self) -> tuple[int, int, int]:
        """Bytes of scales, zero points and codes."""
        scales = math.prod(self.scales)
        return 2 * scales, scales if self.scheme.is_packed else 0, math.prod(self.codes)


class _CastTensor:
    """One tensor in the dtype of `numbers`: as bfloat16, or as it is."""

    def __init__(self, numbers_HTD: Tensor) -> None:
        self._numbers_HTD = numbers_HTD

    def encode(self, tensor_HTD: Tensor) -> None:
        self._numbers_HTD.copy_(tensor_HTD)

    def decode(self, out_HTD: Tensor) -> None:
        out_HTD.copy_(self._numbers_HTD)


class _QuantizedTensor:
    """One tensor as scales, zero points and codes: views of a body."""

    def __init__(self, shape: _Shape, groups: TokenGroups, scales: Tensor, zeros: Tensor, codes: Tensor) -> None:
        self._shape, self._groups = shape, groups
        self._scales = scales.view(torch.bfloat16).view(shape.scales)
        self._zeros = zeros.view(torch.int8).view(shape.scales) if shape.scheme.is_packed else None
        self._codes = codes.view(torch.int8).view(shape.codes)

    def encode(self, tensor_HTD: Tensor) -> None:
        """Raises SegmentError for a number that is not finite."""
        if not tensor_HTD.numel():
            return
        groups, largest = self._groups, torch.finfo(tensor_HTD.dtype).max
        if self._shape.tensor.is_key:
            grouped_HGSD = tensor_HTD.index_select(1, groups.tokens_GS.view(-1)).unflatten(1, groups.tokens_GS.shape)
            scales, zeros, codes = quantize(grouped_HGSD.float(), 2, self._shape.scheme, largest)
            codes_HTD = codes.flatten(1, 2).index_select(1, groups.slot_T)
        else:
            grouped_HTVP = tensor_HTD.unflatten(2, (self._scales.shape[2], -1))
            numbers = grouped_HTVP.to(torch.float32, copy=True)  # quantizing overwrites them
            scales, zeros, codes = quantize(numbers, 3, self._shape.scheme, largest)
            codes_HTD = codes.flatten(2)
        self._scales.copy_(scales)
        if self._zeros is None:
            self._codes.copy_(codes_HTD)
            return
        self._zeros.copy_(zeros)
        half = self._codes.shape[2]
        upper = pad(codes_HTD[..., half:], (0, 2 * half - codes_HTD.shape[2])).view(torch.uint8)
        self._codes.copy_(codes_HTD[..., :half] | upper.bitwise_left_shift(4).view(torch.int8))

    def decode(self, out_HTD: Tensor) -> None:
        if not out_HTD.numel():
            return
        steps_HTD = self._codes
        if self._zeros is not None:
            packed = self._codes.view(torch.uint8)
            halves = torch.cat((packed.bitwise_and(15), packed.bitwise_right_shift(4)), dim=2)
            steps_HTD = halves[..., : out_HTD.shape[2]].view(torch.int8)
        if self._shape.tensor.is_key:
            group_T = self._groups.group_T
            if self._zeros is not None:
                steps_HTD = steps_HTD + self._zeros.index_select(1, group_T)
            dequantize(steps_HTD, self._scales.index_select(1, group_T), out_HTD)
            return
        grouped = (self._scales.shape[2], -1)
        steps_HTVP = steps_HTD.unflatten(2, grouped)
        if self._zeros is not None:
            steps_HTVP = steps_HTVP + self._zeros.unsqueeze(3)
        dequantize(steps_HTVP, self._scales.unsqueeze(3), out_HTD.unflatten(2, grouped))


def _tensors(
    layout: KVLayout, buffer: Tensor, body: Tensor, codec: CodecName
) -> Iterator[tuple[int, Tensor, _CastTensor | _QuantizedTensor]]:
    """Each tensor's layer, its view of the layout's buffer, and its parts in an encoded body."""
    sizes = [size for sizes in zip(*_part_bytes(layout, codec), strict=True) for size in sizes]
    parts, number = body.split(sizes), len(layout.tensors)
    groups = None if codec == "bf16" else TokenGroups.of(SCHEMES[codec], layout.lengths, body.device)
    for index, place in enumerate(layout.tensors):
        scales, zeros, codes, state = parts[index::number]
        view_HTD = place.view(buffer)
        if place.spec.state_dims is not None:
            yield place.layer, buffer[place.first_byte : place.stop_byte], _CastTensor(state)
        elif groups is None:
            yield place.layer, view_HTD, _CastTensor(codes.view(torch.bfloat16).view(view_HTD.shape))
        else:
            shape = _Shape(SCHEMES[codec], place.spec, layout.lengths)
            yield place.layer, view_HTD, _QuantizedTensor(shape, groups, scales, zeros, codes)
