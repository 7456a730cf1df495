"""Reads a file of programs: sections that begin with `======== NAME`, each with its tests after `-------- tests`."""

from pathlib import Path

GIVEN = "def same(a, b):\n    return a == b\n"
DOUBLE = "assert double(4) == 8\nassert double(-3) == -6, 'expected minus six'"


def programs(name: str) -> dict[str, tuple[str, str]]:
    """Return (program, tests) by the name of the section."""
    found = {}
    for section in Path(__file__).with_name(name).read_text(encoding="utf-8").split("\n======== ")[1:]:
        title, _, text = section.partition("\n")
        program, _, tests = text.partition("\n-------- tests\n")
        found[title] = (program, tests or DOUBLE)
    return found
