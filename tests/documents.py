"""What the documents show: fenced blocks, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = tuple(
    path.relative_to(ROOT).as_posix()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted(ROOT.glob("docs/*.md")),
        *ROOT.glob("*/README.md"),
    )
)
# Measurements with the commands of their day: only their links are checked.
RESULTS = tuple(path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("benchmarks/results/*.md")))
PROGRAMS = ("latentmas", "make", "python", "pip", "ray", "sudo", "sbatch", "kubectl", "kind", "docker")

SERVER = "http://127.0.0.1:8000/v1"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block, and the output that the document shows below it."""

    language: str
    text: str
    output: str | None

    @property
    def asks_server(self) -> bool:
        """Whether it asks a server that runs; tests/serve runs such blocks against one."""
        return SERVER in self.text

    @property
    def commands(self) -> list[str]:
        """One a command, without comments, continuation lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [" ".join(words) for line in lines if (words := shlex.split(line, comments=True, posix=False))]


@cache
def blocks(document: str) -> tuple[Block, ...]:
    """All fenced blocks of a document but the outputs."""
    found = _FENCE.findall((ROOT / document).read_text(encoding="utf-8"))
    return tuple(Block(language, text, output or None) for language, text, output in found if language != "text")


def shell_blocks(document: str) -> Iterator[Block]:
    return (block for block in blocks(document) if block.language in ("", "sh", "bash"))


def spans(document: str) -> Iterator[str]:
    """Commands within the text."""
    text = _FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))
    return (span for span in _SPAN.findall(text) if span.split()[0:1] and span.split()[0] in PROGRAMS)
