"""The part of a document that a command writes: all between two lines of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentmas_ray.bench.plot import check_matplotlib
from latentmas_ray.errors import ConfigError, RunError


@dataclass(frozen=True, kw_only=True)
class GeneratedPart:
    """The two lines, and what they enclose, in words."""

    begin: str
    end: str
    what: str

    def check(self, document: Path) -> None:
        """Raise ConfigError unless the document has the part."""
        expected = f"it must be a Markdown file with the two lines that enclose {self.what}"
        try:
            text = document.read_text()
        except OSError as error:
            raise ConfigError("document", str(document), f"{expected}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError("document", str(document), expected) from None
        if self.begin not in text or self.end not in text.partition(self.begin)[2]:
            raise ConfigError("document", str(document), expected)

    def write(self, document: Path, lines: Sequence[str]) -> None:
        """Replace the part by these lines."""
        before, _, rest = document.read_text().partition(self.begin)
        _, _, after = rest.partition(self.end)
        document.write_text(before + self.begin + "\n" + "\n".join(lines) + "\n\n" + self.end + after)


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """The part with the figures of one model, by `python -m benchmarks COMMAND`, and the plot next to the document. A
    document without it gets it at its end."""

    command: str
    what: str  # the figures, in a word
    model: str  # its name, or its folder

    @property
    def name(self) -> str:
        """The model's name."""
        return Path(self.model).name

    @property
    def plot_name(self) -> str:
        """The file name of the plot."""
        return f"{self.command}_{self.name}.png"

    def check(self, document: Path) -> None:
        """Raise ConfigError unless the document is there and can be read, and RunError where nothing can be drawn."""
        try:
            document.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("document", str(document), f"it must be a Markdown file: {error}") from None
        check_matplotlib(self.plot_name)

    def write(self, document: Path, lines: Iterable[str], draw: Callable[[Path], object]) -> None:
        """Replace the part by these lines, and the plot by what `draw` draws to a path. Raises RunError."""
        begin = f"<!-- {self.what} of {self.name}: `python -m benchmarks {self.command}` writes this part -->\n"
        end = f"<!-- end of the {self.what} of {self.name} -->\n"
        text = document.read_text()
        before, _, rest = text.partition(begin) if begin in text else (f"{text.rstrip()}\n\n", "", "")
        after = rest.partition(end)[2]
        try:
            draw(document.parent / self.plot_name)
            document.write_text(before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after)
        except OSError as error:
            raise RunError(f"the figures cannot be written to {document}: {error.strerror or error}") from error


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a Markdown table, as lines."""
    return [f"| {' | '.join(row)} |" for row in rows]
