"""The KV of some tokens and how it is laid out: in memory, or computed, copied or decoded when it is first read.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens of all questions one after another, D head dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.config import CodecName
from latentmas_ray.errors import IncompatibleMemoryError, SegmentError
from latentmas_ray.memory.layer_spec import TensorSpec
from latentmas_ray.memory.spec import KVCacheSpec


@dataclass(frozen=True)
class CodecStats:
    """A lossy codec, the bytes that were sent, and the RMS error of the KV relative to its RMS."""

    codec: CodecName
    num_bytes: int
    relative_error: float


@dataclass(frozen=True)
class PackedTensor:
    """The place of one layer's tensor [H, num_tokens, D] in a buffer; of states there is one a question."""

    layer: int
    spec: TensorSpec
    first_byte: int
    num_tokens: int

    @property
    def stop_byte(self) -> int:
        return self.first_byte + self.num_tokens * self.spec.row_bytes

    def view(self, buffer: Tensor) -> Tensor:
        """A view of the tensor in a flat uint8 buffer."""
        flat = buffer[self.first_byte : self.stop_byte].view(self.spec.torch_dtype)
        return flat.view(self.spec.num_heads, self.num_tokens, self.spec.head_dim)


@dataclass(frozen=True)
class KVLayout:
    """How the KV of some tokens is laid out in one buffer: layer by layer, in each its tensors [H, T, D] in order.

    T counts the tokens of all questions, one question after another: `lengths[q]` of question q, or
    `layer_lengths[l][q]` in layer l if layers keep different numbers of them. Each tensor begins at a multiple of its
    item size. If all layers are alike and keep equally many tokens, the buffer is one tensor [L, 2, H, T, D].
    With `has_states` it also holds every question's states after these tokens.
    """

    spec: KVCacheSpec
    lengths: tuple[int, ...]
    layer_lengths: tuple[tuple[int, ...], ...] | None = None
    has_states: bool = False

    @property
    def is_uniform(self) -> bool:
        """Whether the buffer is one tensor [L, 2, H, T, D]."""
        return self.layer_lengths is None and self.spec.is_uniform

    @cached_property
    def num_tokens(self) -> int:
        """T of a layer that keeps all tokens."""
        return sum(self.lengths)

    @cached_property
    def num_bytes(self) -> int:
        if self.is_uniform:
            return self.num_tokens * self.spec.bytes_per_token
        return max((tensor.stop_byte for tensor in self.tensors), default=0)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """[L, 2, H, T, D]. Raises IncompatibleMemoryError unless `is_uniform`."""
        self.require_uniform()
        spec = self.spec
        return (spec.num_layers, 2, spec.num_kv_heads, self.num_tokens, spec.head_dim)

    def require_uniform(self) -> None:
        """Raises IncompatibleMemoryError, which names a layer, unless `is_uniform`."""
        self.spec.require_uniform()
        self.require_even()

    def require_even(self) -> None:
        """Raises IncompatibleMemoryError, which names a layer, unless all layers keep equally many tokens: then an
        engine can read them, whatever the layers' tensors are."""
        if self.layer_lengths is not None:
            layer = next(layer for layer, kept in enumerate(self.layer_lengths) if kept != self.lengths)
            raise IncompatibleMemoryError(
                f"layer {layer} keeps {self.layer_lengths[layer]} of {self.lengths} tokens: such memory can be packed "
                "and moved, but computing with it needs equally many in all layers"
            )

    def block_views(self, buffer: Tensor) -> Iterator[Tensor]:
        """Views [C, H, T, D] of a flat uint8 buffer, in order: of each layer's blocks (`LayerSpec.blocks`)."""
        if self.is_uniform:
            yield from buffer.view(self.spec.torch_dtype).view(self.shape)
            return
        tensors = iter(self.tensors)
        for layer in self.spec.layers:
            for _, count in layer.blocks:  # tensors of one dtype follow one another without a gap
                first, *others = (next(tensors) for _ in range(count))
                stop_byte = others[-1].stop_byte if others else first.stop_byte
                flat = buffer[first.first_byte : stop_byte].view(first.spec.torch_dtype)
                yield flat.view(count, first.spec.num_heads, first.num_tokens, first.spec.head_dim)

    def lengths_in(self, layer: int) -> tuple[int, ...]:
        """Tokens of each question that a layer keeps."""
        return self.lengths if self.layer_lengths is None else self.layer_lengths[layer]

    def rows_in(self, layer: int, tensor: TensorSpec) -> tuple[int, ...]:
        """The rows of each question in one of a layer's tensors: its tokens, or one state."""
        if tensor.state_dims is None:
            return self.lengths_in(layer)
        return (int(self.has_states),) * len(self.lengths)

    @cached_property
    def tensors(self) -> tuple[PackedTensor, ...]:
        """All tensors in the order of the buffer."""
        found: list[PackedTensor] = []
        end = 0
        for layer, layer_spec in enumerate(self.spec.layers):
            for spec in layer_spec.tensors:
                item_bytes, num_tokens = spec.torch_dtype.itemsize, sum(self.rows_in(layer, spec))
                found.append(PackedTensor(layer, spec, end + -end % item_bytes, num_tokens))
                end = found[-1].stop_byte
        return tuple(found)


# One question's KV: [L, 2, H, T, D], or the tensors [H, T, D] in the order of `KVLayout.tensors` where layers differ.
QuestionKV = Tensor | Sequence[Tensor]


class KVSource(ABC):
    """The KV of a segment or of a chunk of one. Tensors that it has returned never change.

    The first read may copy, decode or join the bytes. Pickling a source reads it; it is unpickled as `InMemoryKV`.
    """

    layout: KVLayout
    codec_stats: CodecStats | None = None  # None if no lossy codec was used in transit

    @abstractmethod
    def buffer(self) -> Tensor:
        """All bytes as one flat uint8 tensor in the order of the layout. Raises SegmentError if they were released."""

    def tensor(self) -> Tensor:
        """The KV [L, 2, H, T, D], contiguous; shares the bytes of `buffer`. Raises like it, and IncompatibleMemoryError
        if the layers differ."""
        return self.buffer().view(self.layout.spec.torch_dtype).view(self.layout.shape)

    def view_of(self, question: int) -> Tensor:
        """A view of one question's KV [L, 2, H, lengths[question], D]. Raises like `buffer`."""
        lengths = self.layout.lengths
        first = sum(lengths[:question])
        return self.tensor()[:, :, :, first : first + lengths[question]]

    def head_views(self, question: int) -> Iterator[tuple[int, QuestionKV]]:
        """One question's KV as views of adjacent heads: the first head of each, and [L, 2, heads, T, D]; or all of it
        where layers differ. Used to write a cache, because it joins nothing. Raises like `buffer`."""
        yield 0, self.view_of(question) if self.layout.is_uniform else self.tensors_of(question)

    def tensors_of(self, question: int) -> list[Tensor]:
        """One question's tensors [H, T, D] in the order of `KVLayout.tensors`, for any layers; views of `buffer`.
        Raises like it."""
        buffer, views = self.buffer(), []
        for tensor in self.layout.tensors:
            lengths = self.layout.rows_in(tensor.layer, tensor.spec)
            first = sum(lengths[:question])
            views.append(tensor.view(buffer)[:, first : first + lengths[question]])
        return views

    @property
    def travel_bytes(self) -> int:
        """Bytes of KV that were received: fewer with a codec, more if only some of the received heads are read."""
        return self.codec_stats.num_bytes if self.codec_stats else self.layout.num_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return InMemoryKV, (self.layout, self.buffer(), self.codec_stats)


class InMemoryKV(KVSource):
    """KV whose bytes are in this process's memory."""

    def __init__(self, layout: KVLayout, buffer: Tensor, codec_stats: CodecStats | None = None) -> None:
        """`buffer` is flat uint8. Raises SegmentError if its size is not that of the layout."""
        if buffer.dtype != torch.uint8 or buffer.shape != (layout.num_bytes,):
            raise SegmentError(
                f"KV is {tuple(buffer.shape)} {buffer.dtype}, {layout.num_tokens} tokens take {layout.num_bytes} bytes"
            )
        self.layout = layout
        self.codec_stats = codec_stats
        self._buffer = buffer

    @classmethod
    def of(
        cls, spec: KVCacheSpec, lengths: Sequence[int], kv_LCHTD: Tensor, codec_stats: CodecStats | None = None
    ) -> "InMemoryKV":
        """Wrap the KV [L, 2, H, sum(lengths), D] of the spec's dtype; shares its bytes. Raises SegmentError for another
        shape or dtype, and if it is not contiguous."""
        layout = KVLayout(spec, tuple(lengths))
        if kv_LCHTD.shape != layout.shape or kv_LCHTD.dtype != spec.torch_dtype:
            raise SegmentError(
                f"KV is {tuple(kv_LCHTD.shape)} {kv_LCHTD.dtype}, the spec wants {layout.shape} {spec.dtype}"
            )
        if not kv_LCHTD.is_contiguous():
            raise SegmentError("KV must be one contiguous buffer")
        return cls(layout, kv_LCHTD.detach().reshape(-1).view(torch.uint8), codec_stats)

    def buffer(self) -> Tensor:
        return self._buffer


def concatenate_kv(
    layout: KVLayout, parts: Sequence[tuple[KVSource, int]], stats: CodecStats | None = None
) -> InMemoryKV:
    """Concatenate questions of several sources, each (source, question), in this layout; copies their bytes."""
    if not parts:
        return InMemoryKV(layout, torch.empty(0, dtype=torch.uint8), stats)
    if layout.is_uniform and all(source.layout.is_uniform for source, _ in parts):
        kv_LCHTD = torch.cat([source.view_of(question) for source, question in parts], dim=3)
        return InMemoryKV(layout, kv_LCHTD.view(-1).view(torch.uint8), stats)
    found = [source.tensors_of(question) for source, question in parts]
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8, device=parts[0][0].buffer().device)
    for tensor, views in zip(layout.tensors, zip(*found, strict=True), strict=True):
        tensor.view(buffer).copy_(torch.cat(views, dim=1))
    return InMemoryKV(layout, buffer, stats)
