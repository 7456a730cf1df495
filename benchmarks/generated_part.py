"""The part of a document that a command writes: all between two lines of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentmas_ray.errors import ConfigError


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


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a Markdown table, as lines."""
    return [f"| {' | '.join(row)} |" for row in rows]
