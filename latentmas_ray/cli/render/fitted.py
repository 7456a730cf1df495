"""Tables and headings for any width: where columns would be cut, each row becomes a block of lines.

rich cuts a column that may not wrap where the terminal is too narrow, and figures may not wrap.
"""

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.rule import Rule
from rich.table import Column, Table
from rich.text import Text

_LEAST_TEXT = 8  # columns of a terminal for text that may wrap; text that is shorter needs less
_INDENT = 2


class FittedTable(Table):
    """A table, or one block per row where it does not fit: the first cell, and a line for each other cell."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._least_width(console) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield _text(console, self.title)
        for row in zip(*(column.cells for column in self.columns), strict=True):
            yield ""
            yield from self._block(console, row, options.max_width)
        yield ""

    def _least_width(self, console: Console) -> int:
        """Return the width at which nothing is cut that may not wrap."""
        _, right, _, left = self.padding
        num_columns = len(self.columns)
        padding = num_columns * (left + right) - (0 if self.pad_edge else left + right)
        edges = 0 if self.box is None else num_columns - 1 + (2 if self.show_edge else 0)
        return padding + edges + sum(self._least_of(console, column) for column in self.columns)

    def _least_of(self, console: Console, column: Column) -> int:
        cells = [*column.cells, *([column.header] if self.show_header else [])]
        lines = [line for cell in cells for line in _text(console, cell).plain.splitlines()]
        if column.no_wrap:
            return max(map(cell_len, lines), default=0)
        return min(_LEAST_TEXT, max((cell_len(word) for line in lines for word in line.split()), default=0))

    def _block(self, console: Console, row: tuple[RenderableType, ...], width: int) -> Iterator[RenderableType]:
        (first, *others), (name, *names) = row, (self._heading(console, column) for column in self.columns)
        title = Text(overflow="fold")
        if name:
            title.append(f"{name} ", style="dim")
        title.append_text(_one_line(_text(console, first)))
        title.stylize("bold")
        yield title
        for heading, column, cell in zip(names, self.columns[1:], others, strict=True):
            value = _one_line(_text(console, cell))
            if not value.plain:
                continue
            line = Text(" " * _INDENT, overflow="fold").append(heading, style="dim")
            gap = "  " if heading else ""
            if column.no_wrap and gap and cell_len(line.plain + gap + value.plain) > width:
                yield line  # a figure that would be divided after its heading has a line of its own
                line, gap = Text(overflow="fold"), " " * 2 * _INDENT
            line.append(gap)
            yield line.append_text(value)

    def _heading(self, console: Console, column: Column) -> str:
        """Return a column's heading on one line, with the parts of a divided word together."""
        if not self.show_header:
            return ""
        lines = _text(console, column.header).plain.splitlines()
        return "".join(line[:-1] if line.endswith("-") else f"{line} " for line in lines).strip()


class Heading:
    """A line with a title, or the title alone where the line would cut it."""

    def __init__(self, title: str) -> None:
        self._title = Text(title, style="bold", overflow="fold")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fits = cell_len(self._title.plain) + 4 <= options.max_width
        yield Rule(self._title, align="left", style="dim") if fits else self._title


def _text(console: Console, cell: RenderableType) -> Text:
    if isinstance(cell, Text):
        return cell
    assert isinstance(cell, str), "cells are text"
    return console.render_str(cell)


def _one_line(text: Text) -> Text:
    """Return the text without its line breaks and the spaces around them."""
    return Text(" ").join(line for line in text.split("\n") if line.plain.strip())
