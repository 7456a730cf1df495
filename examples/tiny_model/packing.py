"""Packs documents into rows of equal length, with the visibility of every token.

Dimensions: B rows, T tokens per row. A token sees the earlier tokens of its own segment and, if it reads them, the
shared segments of its document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.tiny_model.document import KINDS, Document, DocumentPart, Mix
from examples.tiny_model.layouts import TranscriptWriter

_NONE = -1
_LEAST_ROOM = 80  # free tokens for which another document is tried


@dataclass(frozen=True)
class Rows:
    """The input of a step. `targets_BT` has the id of the next token if that is a target, else -100."""

    ids_BT: Tensor
    positions_BT: Tensor
    targets_BT: Tensor
    own_BT: Tensor  # the segment of each token
    reads_BT: Tensor  # the document whose shared segments it sees, or -1
    shares_BT: Tensor  # the document whose shared segments it belongs to, or -2
    kinds_BT: Tensor  # the index of the target's kind in KINDS, or -1
    soft_BT: Tensor  # 1 for a soft token

    @property
    def visible(self) -> Tensor:
        """[B, T, T]: True where a row's token i may see its token j."""
        own = self.own_BT[:, :, None] == self.own_BT[:, None, :]
        shared = self.reads_BT[:, :, None] == self.shares_BT[:, None, :]
        return (own | shared).tril()


class _PackedRow:
    def __init__(self, length: int) -> None:
        self.length = length
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.targets: list[int] = []
        self.own: list[int] = []
        self.reads: list[int] = []
        self.shares: list[int] = []
        self.kinds: list[int] = []
        self.soft: list[int] = []
        self._num_documents = 0
        self._num_segments = 0

    @property
    def room(self) -> int:
        return self.length - len(self.ids)

    def add(self, document: Document) -> bool:
        """Add a document if it fits. Return whether it was added."""
        segments = (*document.shared, *document.branches)
        if not document.branches or sum(len(part.ids) for parts in segments for part in parts) > self.room:
            return False
        number, position, self._num_documents = self._num_documents, 0, self._num_documents + 1
        for parts, gap in zip(document.shared, document.gaps, strict=True):
            reads = _NONE if document.parallel else number
            position = self._segment(parts, position, reads, number) + gap
        for parts in document.branches:
            self._segment(parts, position, number, _NONE - 1)
        return True

    def _segment(self, parts: list[DocumentPart], position: int, reads: int, shares: int) -> int:
        kinds: list[int] = []
        begin = len(self.ids)
        for part in parts:
            self.ids += part.ids
            self.soft += [int(part.soft)] * len(part.ids)
            kinds += [-1 if part.kind is None else KINDS.index(part.kind)] * len(part.ids)
        num = len(kinds)
        # A token's target is the one after it.
        self.kinds += [*kinds[1:], -1]
        self.targets += [self.ids[begin + i] if kinds[i] >= 0 else -100 for i in range(1, num)] + [-100]
        self.positions += range(position, position + num)
        self.own += [self._num_segments] * num
        self.reads += [reads] * num
        self.shares += [shares] * num
        self._num_segments += 1
        return position + num

    def padded(self) -> tuple[list[int], ...]:
        room, alone = self.room, [10_000 + i for i in range(self.room)]
        return (
            self.ids + [0] * room,
            self.positions + [0] * room,
            self.targets + [-100] * room,
            self.own + alone,
            self.reads + [_NONE] * room,
            self.shares + [_NONE - 1] * room,
            self.kinds + [-1] * room,
            self.soft + [0] * room,
        )


def pack(writer: TranscriptWriter, mix: Mix, num_rows: int, num_tokens: int) -> Rows:
    """Return `num_rows` rows of `num_tokens` tokens, filled with documents and padded."""
    rows = []
    for _ in range(num_rows):
        row, misses = _PackedRow(num_tokens), 0
        while row.room >= _LEAST_ROOM and misses < 3:
            misses += not row.add(writer.document(mix, row.room))
        rows.append(row.padded())
    return _rows_of(rows)


def pack_stream(documents: Iterator[Document], num_rows: int, num_tokens: int) -> Rows:
    """Return `num_rows` rows of `num_tokens` tokens with the next documents, in their order.

    The document that does not fit into the last row is taken and lost. Raises ValueError for one that no row can hold.
    """
    rows = []
    document = next(documents)
    for _ in range(num_rows):
        row = _PackedRow(num_tokens)
        while row.add(document):
            document = next(documents)
        if row.room == num_tokens:
            raise ValueError(f"a document is longer than a row of {num_tokens} tokens")
        rows.append(row.padded())
    return _rows_of(rows)


def pack_each(documents: Sequence[Document]) -> Rows:
    """Return one row for each document, as long as the longest of them. Raises ValueError for one without branches."""
    lengths = [sum(len(part.ids) for parts in (*one.shared, *one.branches) for part in parts) for one in documents]
    rows = []
    for document in documents:
        row = _PackedRow(max(lengths))
        if not row.add(document):
            raise ValueError("a document has no branches")
        rows.append(row.padded())
    return _rows_of(rows)


def _rows_of(columns: Sequence[tuple[list[int], ...]]) -> Rows:
    return Rows(*(torch.tensor(column) for column in zip(*columns, strict=True)))
