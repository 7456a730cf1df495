"""Packs documents of thinking agents into rows of equal length.

Dimensions: B rows, T tokens per row, S agents of a row that think at the same time, E hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from examples.tiny_model.packing import Rows
from examples.training.protocol.documents import KINDS, Branch, ThinkingDocument

_OWN, _NONE = -2, -1  # `shares` of a token that only its segment sees, `reads` of one that reads no document
_IGNORED = -100


@dataclass(frozen=True)
class ThoughtRows:
    """The input of a step. `rows.soft_BT` is 1 where a thought is, and `rows.kinds_BT` an index of KINDS.

    `starts` has for each round in which agents think the columns [B, S] of their first thoughts, -1 for none: agents
    that read others think in later rounds. `aims_BT` is the token that the thought there aims at, or -1. `groups_BT` is
    the number of an answer's group, 0 for none, and its negative for an answer without memory.
    """

    rows: Rows
    num_thoughts: int
    starts: tuple[Tensor, ...]
    aims_BT: Tensor
    groups_BT: Tensor

    @property
    def is_thought(self) -> Tensor:
        """[B, T]: True where a thought is fed."""
        return self.rows.soft_BT.bool()


class _ThoughtRow:
    def __init__(self, length: int, num_thoughts: int) -> None:
        self._length, self._num_thoughts = length, num_thoughts
        self.columns: dict[str, list[int]] = {
            name: []
            for name in ("ids", "positions", "targets", "own", "reads", "shares", "kinds", "soft", "aims", "groups")
        }
        self.starts: list[list[int]] = []  # by round
        self._num_documents = self._num_segments = 0

    @property
    def room(self) -> int:
        return self._length - len(self.columns["ids"])

    def add(self, document: ThinkingDocument) -> None:
        number, position, self._num_documents = self._num_documents, 0, self._num_documents + 1
        for place, agent in enumerate(document.agents):
            size, num = len(agent.prompt), self._num_thoughts
            shown = _OWN if document.thoughts_alone else number
            if num:
                self._round(0 if document.parallel else place).append(len(self.columns["ids"]) + size)
            self._extend(
                position,
                ids=agent.prompt + [0] * num,
                reads=[_NONE if document.parallel else number] * (size + num),
                shares=[shown] * size + [number] * num,
                soft=[0] * size + [1] * num,
                aims=[-1] * size + list(islice(_repeated(agent.aims), num)),
            )
            position += size + num
        for branch in document.branches:
            self._branch(branch, number, position)

    def _branch(self, branch: Branch, number: int, position: int) -> None:
        ids, num = branch.prompt + branch.answer, len(branch.prompt)
        self._extend(
            position if branch.reads_memory else 0,
            ids=ids,
            reads=[number if branch.reads_memory else _NONE] * len(ids),
            shares=[_OWN] * len(ids),
            targets=[_IGNORED] * (num - 1) + branch.answer + [_IGNORED],
            kinds=[KINDS.index(branch.kind)] * len(ids),
            groups=[branch.group if branch.reads_memory else -branch.group] * len(ids),
        )

    def _extend(self, position: int, *, ids: list[int], **columns: list[int]) -> None:
        size = len(ids)
        columns |= {"ids": ids, "positions": [*range(position, position + size)], "own": [self._num_segments] * size}
        usual = {"targets": _IGNORED, "kinds": -1, "soft": 0, "aims": -1, "groups": 0}
        for name, column in self.columns.items():
            column += columns[name] if name in columns else [usual[name]] * size
        self._num_segments += 1

    def _round(self, number: int) -> list[int]:
        while len(self.starts) <= number:
            self.starts.append([])
        return self.starts[number]

    def pad(self) -> None:
        for _ in range(self.room):
            self._extend(0, ids=[0], reads=[_NONE], shares=[_OWN])  # a segment of its own each


def pack_thinking(
    documents: Iterator[ThinkingDocument], num_thoughts: int, num_rows: int, num_tokens: int
) -> ThoughtRows:
    """Return `num_rows` rows of `num_tokens` tokens. A row is full when two documents in turn did not fit, which are
    lost. `documents` fit into an empty row."""
    packed = []
    for _ in range(num_rows):
        row, misses = _ThoughtRow(num_tokens, num_thoughts), 0
        while misses < 2:
            document = next(documents)
            if document.num_tokens(num_thoughts) > row.room:
                misses += 1
                continue
            row.add(document)
        row.pad()
        packed.append(row)
    columns = {name: torch.tensor([row.columns[name] for row in packed]) for name in packed[0].columns}
    aims_BT, groups_BT = columns.pop("aims"), columns.pop("groups")
    rows = Rows(**{f"{name}_BT": column for name, column in columns.items()})
    return ThoughtRows(rows, num_thoughts, _starts([row.starts for row in packed]), aims_BT, groups_BT)


def join(thinking: ThoughtRows, others: Rows) -> ThoughtRows:
    """Return the rows of both. `others` have no thoughts; soft tokens in them are read as the tokens that they are."""
    num = len(others.ids_BT)
    plain = replace(others, soft_BT=torch.zeros_like(others.soft_BT), kinds_BT=torch.full_like(others.kinds_BT, -1))
    names = ("ids_BT", "positions_BT", "targets_BT", "own_BT", "reads_BT", "shares_BT", "kinds_BT", "soft_BT")
    rows = Rows(**{name: torch.cat([getattr(thinking.rows, name), getattr(plain, name)]) for name in names})
    return ThoughtRows(
        rows,
        thinking.num_thoughts,
        tuple(torch.cat([start_BS, start_BS.new_full((num, start_BS.shape[1]), -1)]) for start_BS in thinking.starts),
        torch.cat([thinking.aims_BT, torch.full_like(others.ids_BT, -1)]),
        torch.cat([thinking.groups_BT, torch.zeros_like(others.ids_BT)]),
    )


def _starts(rows: list[list[list[int]]]) -> tuple[Tensor, ...]:
    """[B, S] for each round, filled with -1."""
    found = []
    for number in range(max(map(len, rows), default=0)):
        own = [starts[number] if number < len(starts) else [] for starts in rows]
        width = max(map(len, own))
        found.append(torch.tensor([starts + [-1] * (width - len(starts)) for starts in own]))
    return tuple(found)


def _repeated(aims: list[int]) -> Iterator[int]:
    """The aims again and again; -1 without any."""
    while True:
        yield from aims or [-1]
