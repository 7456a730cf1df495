"""What the documents show is there: commands and flags, files, Python that runs and prints what stands below it."""

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from latentmas_ray import Topology
from latentmas_ray.cli.main import app
from tests.documents import DOCUMENTS, RESULTS, ROOT, blocks, shell_blocks, spans

PACKAGE = ROOT / "latentmas_ray"
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)|src=\"([^\"]+)\"")


def command_named(words: list[str]) -> tuple[Any, list[str]]:
    """The command that `latentmas WORDS` calls, and the words after its name. Fails for one that is not there."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def check_flags(line: str) -> None:
    _, _, arguments = line.partition("latentmas ")
    command, words = command_named(shlex.split(arguments))
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in {*known, "--help", "--version"}, f"{line}: there is no {word}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_flag_that_is_named_exists(document: str) -> None:
    shown = [line for block in shell_blocks(document) for line in block.commands]
    for line in (*shown, *spans(document)):
        if line.startswith("latentmas ") or " -- latentmas " in line:
            check_flags(line)
        elif line.startswith("make "):
            assert f"\n{line.split()[1]}: " in (ROOT / "Makefile").read_text()
        for word in shlex.split(line):
            if re.match(r"(jobs|cluster|examples|docker|tests)/", word):
                assert (ROOT / word).exists(), f"{line}: there is no {word}"


@pytest.mark.parametrize("document", [*DOCUMENTS, *RESULTS, "CHANGELOG.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target, anchor, source in _LINK.findall(path.read_text(encoding="utf-8")):
        if "://" in (target or source):
            continue
        linked = path.parent / (target or source)
        assert linked.exists(), f"{document}: {target or source}"
        if anchor and linked.suffix == ".md":
            assert anchor in headings(linked), f"{document}: {target}#{anchor}"


def headings(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", [one for one in DOCUMENTS if any(b.language == "python" for b in blocks(one))])
def test_python_prints_what_stands_below_it(document: str) -> None:
    """The blocks of one document are one program, each followed by its output."""
    names: dict[str, Any] = {}
    for block in blocks(document):
        if block.language == "python" and not block.asks_server:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(block.text, document, "exec"), names)
            assert out.getvalue() == (block.output or ""), block.text


@pytest.mark.parametrize("document", [one for one in DOCUMENTS if any(b.language == "yaml" for b in blocks(one))])
def test_topologies_in_yaml_are_valid(document: str) -> None:
    for block in blocks(document):
        if block.language == "yaml" and "agents:" in block.text:
            Topology.parse(block.text, document)


@pytest.mark.parametrize("document", ["docs/architecture.md", "docs/glossary.md"])
def test_files_and_names_of_the_code_exist(document: str) -> None:
    """Every file that is named in a page about the code; in a row of a table with one file, every name beside it."""
    for line in (ROOT / document).read_text(encoding="utf-8").splitlines():
        named = [path for path in re.findall(r"`([\w/]+\.py)`", line) if "/" in path]
        files = [next((root / path for root in (PACKAGE, ROOT) if (root / path).exists()), None) for path in named]
        assert None not in files, line
        if line.startswith("|") and len(files) == 1 and files[0] is not None:
            source = files[0].read_text(encoding="utf-8")
            for name in re.findall(r"`([A-Za-z_]\w+(?:\.\w+)?)`", line):
                unknown = [part for part in name.split(".") if not re.search(rf"\b{part}\b", source)]
                assert unknown == [], f"{document}: {named[0]} has no {name}"


@pytest.mark.parametrize("name", ["team.svg", "architecture.svg"])
def test_a_drawing_is_one_file_for_both_themes(name: str) -> None:
    """Every colour is set by a class, and each class that has one is set again for dark pages."""
    drawing = (ROOT / "docs" / name).read_text(encoding="utf-8")
    style, _, shapes = drawing.partition("</style>")
    light, _, dark = style.partition("@media (prefers-color-scheme: dark)")
    assert not re.search(r'(fill|stroke)="(?!none)', shapes)
    coloured = re.compile(r"(\.?\w+) \{ [^}]*(?:fill|stroke): #")
    assert set(coloured.findall(light)) == set(coloured.findall(dark))
    assert "<title" in drawing
    assert "<desc" in drawing
