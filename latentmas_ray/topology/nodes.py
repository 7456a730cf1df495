"""YAML text to nodes that know their line and their place, so that every refusal is one precise line.

Only plain data passes: no tags, no aliases (a small file of aliases can unfold into gigabytes), no deep nesting.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, NoReturn

import yaml
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from latentmas_ray.errors import TopologyError

MAX_FILE_BYTES = 1_000_000
MAX_NESTING = 20

_TAG = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_KINDS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}


class _Refusal(yaml.MarkedYAMLError):
    """What YAML allows and a topology file does not."""


class _PlainLoader(yaml.SafeLoader):
    """Composes nodes; refuses aliases and deep nesting while reading, before they cost anything."""

    _nesting = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(AliasEvent):
            raise _Refusal(None, None, "aliases (*name) are not allowed; write the text out", mark)
        if self._nesting >= MAX_NESTING:
            raise _Refusal(None, None, f"it is nested more than {MAX_NESTING} levels deep", mark)
        self._nesting += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._nesting -= 1


@dataclass(frozen=True)
class Item:
    """One node of a topology file: `path` says what it is (`agents.planner.reads`), `line` where it stands."""

    source: str
    text: str
    path: str
    node: Node

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    @property
    def shown(self) -> str:
        """What the user wrote, for messages."""
        if isinstance(self.node, ScalarNode):
            return str(self.node.value)
        return self.text[self.node.start_mark.index : self.node.end_mark.index].strip()

    def at(self, path: str) -> "Item":
        return replace(self, path=path)

    def refuse(self, expected: str, *, value: str | None = None, line: int | None = None, key: str = "") -> NoReturn:
        """Raises TopologyError for this node; `key` is a key below it that is missing or wrong."""
        path = ".".join(part for part in (self.path, key) if part)
        field = f"{self.source}:{self.line if line is None else line}" + (f": {path}" if path else "")
        raise TopologyError(field, self.shown if value is None else value, expected)

    def mapping(self, known: Sequence[str] | None = None) -> dict[str, "Item"]:
        """The values by key. Raises TopologyError for another kind of node, a key that is not text, one that is
        given twice, and one that is not in `known`."""
        if not isinstance(self.node, MappingNode) or self.node.tag != _TAG + "map":
            self.refuse("it must be a mapping (key: value lines)")
        items: dict[str, Item] = {}
        for key_node, value_node in self.node.value:
            key_item = replace(self, node=key_node)
            key = key_item.string() if isinstance(key_node, ScalarNode) else key_item.refuse("a key must be text")
            path = f"{self.path}.{key}" if self.path else key
            if key in items:
                key_item.at(path).refuse(f"it is already given in line {items[key].line}; keep one")
            if known is not None and key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                key_item.at(path).refuse(f"unknown key; {hint}the keys here are {', '.join(known)}")
            items[key] = Item(self.source, self.text, path, value_node)
        return items

    def peek(self, key: str) -> str | None:
        """The text under `key`, if this is a mapping that has it; nothing is checked."""
        if isinstance(self.node, MappingNode):
            for key_node, value_node in self.node.value:
                if key_node.value == key and isinstance(value_node, ScalarNode):
                    return str(value_node.value)
        return None

    def sequence(self, expected: str) -> list["Item"]:
        """The elements of a list. Raises TopologyError for another kind of node."""
        if not isinstance(self.node, SequenceNode) or self.node.tag != _TAG + "seq":
            self.refuse(expected)
        return [replace(self, path=f"{self.path}[{i}]", node=node) for i, node in enumerate(self.node.value)]

    def string(self) -> str:
        """Raises TopologyError for anything that YAML does not read as text."""
        if not isinstance(self.node, ScalarNode) or self.node.tag != _TAG + "str":
            kind = _KINDS.get(self.node.tag.removeprefix(_TAG)) if isinstance(self.node, ScalarNode) else None
            self.refuse(f"it must be text; YAML reads this as {kind}, so quote it" if kind else "it must be text")
        value = str(self.node.value)
        try:
            value.encode()
        except UnicodeEncodeError:
            self.refuse("it holds half of a surrogate pair, which is not a character", value=ascii(value))
        return value

    def one_of(self, options: Sequence[str]) -> str:
        if not isinstance(self.node, ScalarNode) or self.node.value not in options:
            self.refuse(f"it must be one of {', '.join(options)}")
        return str(self.node.value)

    def boolean(self) -> bool:
        is_boolean = isinstance(self.node, ScalarNode) and self.node.tag == _TAG + "bool"
        if not is_boolean or str(self.node.value).lower() not in _BOOLEANS:
            self.refuse("it must be true or false")
        return _BOOLEANS[str(self.node.value).lower()]

    def whole_number(self, low: int, high: int) -> int:
        expected = f"it must be a whole number from {low} to {high}"
        is_number = isinstance(self.node, ScalarNode) and self.node.tag == _TAG + "int"
        # YAML 1.1 also reads 010 as 8 and 1:30 as 90, which nobody means.
        if not is_number or not _DECIMAL.fullmatch(self.node.value) or not low <= int(self.node.value) <= high:
            self.refuse(expected)
        return int(self.node.value)

    def plain(self) -> Any:
        """Any plain data: text, number, true, false, null, lists and mappings of them."""
        if isinstance(self.node, MappingNode):
            return {key: item.plain() for key, item in self.mapping().items()}
        if isinstance(self.node, SequenceNode):
            return [item.plain() for item in self.sequence("it must be a list")]
        tag = self.node.tag.removeprefix(_TAG)
        if tag == "null":
            return None
        if tag == "bool":
            return self.boolean()
        if tag == "int":
            return self.whole_number(-(10**18) + 1, 10**18 - 1)
        if tag == "float":
            try:
                return float(self.node.value)
            except ValueError:
                self.refuse("it must be a plain decimal number")
        return self.string()


def compose(text: str, source: str) -> Item:
    """The root of a topology file. Raises TopologyError for what is not one YAML document of plain data."""
    num_bytes = len(text.encode(errors="surrogatepass"))
    if num_bytes > MAX_FILE_BYTES:
        raise TopologyError(source, f"{num_bytes} bytes", f"a topology file has at most {MAX_FILE_BYTES} bytes")
    try:
        loader = _PlainLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else 0
        # A scanner that runs off the end points behind the last line.
        lines = text.splitlines() or [""]
        line = min(line, len(lines) - 1)
        reason = " ".join(part for part in (error.context, error.problem) if part)
        reason = reason if isinstance(error, _Refusal) else f"it is not valid YAML: {reason}"
        raise TopologyError(f"{source}:{line + 1}", lines[line].strip(), reason) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise TopologyError(
            f"{source}:{line}", ascii(text[error.position]), "it is not a printable character"
        ) from None
    if node is None:
        raise TopologyError(f"{source}:1", "an empty file", "it must hold a topology: name and agents")
    return Item(source, text, "", node)
