"""YAML as plain data with line numbers, so that an error about the data can name the line.

Refuses tags, deep nesting, and aliases (a small file of aliases can expand into gigabytes).
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from latentmas_ray.errors import TopologyError
from latentmas_ray.topology.agent import SAME_NAME, Topology
from latentmas_ray.topology.templates import find_problem
from latentmas_ray.topology.validation import Path

MAX_FILE_BYTES = 1_000_000
MAX_NESTING = 20

_TAG = "tag:yaml.org,2002:"
# YAML 1.1 also reads 010 as 8 and 1:30 as 90, which users do not expect. A number of more digits is never right.
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_KINDS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}


class Unreadable:
    """A value that is not plain data: a date, an octal number, a tag. No field of a topology accepts it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class _Refusal(yaml.MarkedYAMLError):
    """Valid YAML that a topology file may not contain."""


class _PlainLoader(yaml.SafeLoader):
    """Composes YAML nodes, and refuses aliases and deep nesting while reading, before they cost time or memory."""

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
class MarkedYAML:
    """A topology file as data. `nodes` has the YAML node at each path, `lines` its first line, from 1 (for a value, the
    line of its key)."""

    source: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)
    nodes: dict[Path, Node] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str, source: str) -> "MarkedYAML":
        """Parse a file's text. Raises TopologyError unless it is one YAML document, a mapping of plain data."""
        root = _compose(text, source)
        marked = cls(source, text)
        if not isinstance(root, MappingNode) or root.tag != _TAG + "map":
            expected = "it must be a mapping (key: value lines)"
            raise TopologyError(f"{source}:{_line(root)}", marked._shown(root), expected)
        marked.lines[()] = _line(root)
        faults: list[tuple[Path, int, str, str]] = []
        marked.data.update(marked._mapping(root, (), faults))
        for path, line, value, expected in faults[:1]:
            raise marked._error(path, line, value, expected)
        return marked

    def located(self, error: TopologyError) -> TopologyError:
        """Return the error of a topology made from this data, with the file and line added."""
        path, value, expected = error.path, error.value, error.expected
        node = self.nodes.get(path)
        line = self._line_at(path)
        if isinstance(node, ScalarNode):
            if node.tag != _TAG + "str":
                value = str(node.value) or "nothing"  # as in the file: `yes`, not `true`
            if expected.startswith("it must be text"):
                expected += _hint(node)
            if node.style == "|" and (problem := find_problem(str(node.value))):
                line += problem[0]  # only a literal block keeps the lines of the file
        elif isinstance(node, SequenceNode):
            line = max((_line(element) for element in node.value if element.value == value), default=line)
        if expected == SAME_NAME:
            first = next(i for i, agent in enumerate(self.data["agents"]) if agent["name"] == value)
            expected += f" (line {self._line_at(('agents', first))})"
        return self._error(path, line, value, expected)

    def _error(self, path: Path, line: int, value: str, expected: str) -> TopologyError:
        place = Topology.where(path, self.data)
        field = f"{self.source}:{line}" + (f": {place}" if place else "")
        return TopologyError(field, value, expected, path=path)

    def _line_at(self, path: Path) -> int:
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]

    def _shown(self, node: Node) -> str:
        """Return the text of a node as in the file."""
        if isinstance(node, ScalarNode):
            return str(node.value)
        return self.text[node.start_mark.index : node.end_mark.index].strip()

    def _mapping(self, node: MappingNode, path: Path, faults: list[tuple[Path, int, str, str]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, ScalarNode) or key_node.tag != _TAG + "str":
                faults.append((path, line, self._shown(key_node), f"a key must be text{_hint(key_node)}"))
                continue
            key = str(key_node.value)
            key_path = (*path, key)
            if key in mapping:
                faults.append((key_path, line, key, f"it is already given in line {self.lines[key_path]}; keep one"))
                continue
            self.lines[key_path] = line
            mapping[key] = self._data(value_node, key_path, faults)
        return mapping

    def _data(self, node: Node, path: Path, faults: list[tuple[Path, int, str, str]]) -> Any:
        self.nodes[path] = node
        if isinstance(node, MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path, faults)
        if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            for index, element in enumerate(node.value):
                self.lines[(*path, index)] = _line(element)
            return [self._data(element, (*path, index), faults) for index, element in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            # A key without a value is a mistake, but null may be an argument of a chat template.
            return _scalar(node, takes_null=len(path) > 3 and path[2] == "template")
        return Unreadable(self._shown(node))


def _scalar(node: ScalarNode, *, takes_null: bool) -> Any:
    text = str(node.value)
    match node.tag.removeprefix(_TAG):
        case "str":
            return text
        case "bool" if text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        case "int" if _DECIMAL.fullmatch(text):
            return int(text)
        case "null" if takes_null:
            return None
        case "float":
            try:
                return float(text)
            except ValueError:
                pass
    return Unreadable(text)


def _hint(node: Node) -> str:
    """Return a hint if YAML reads unquoted text as another type, else an empty string."""
    kind = _KINDS.get(node.tag.removeprefix(_TAG)) if isinstance(node, ScalarNode) else None
    if node.tag == _TAG + "int" and not _DECIMAL.fullmatch(node.value):
        kind = "a number that is not decimal"
    return f"; YAML reads this as {kind}, so quote it" if kind else ""


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _compose(text: str, source: str) -> Node:
    """Return the root node. Raises TopologyError unless the text is one YAML document."""
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
        # At the end of the text, the mark can point behind the last line.
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
        raise TopologyError(f"{source}:1", "an empty file", "it must have a topology: name and agents")
    return node
