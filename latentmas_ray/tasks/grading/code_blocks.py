"""Finds the program in an answer: its fenced blocks, in all usual forms, or what looks like code without a fence.

Which blocks count: the last one that defines the required function, of those marked as Python or with no language; with
it, of the other blocks, the definitions and imports that it needs and lacks. Without a block that defines the function:
the last Python block, else the last one without a language, else the last.
"""

import ast
import builtins
import keyword
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from latentmas_ray.patterns import LazyPattern
from latentmas_ray.tasks.grading.final_part import before_new_question, final_part
from latentmas_ray.tasks.grading.thinking import without_thinking

_FENCE = LazyPattern(
    r"^(?P<before>[^\n`]{0,400}?)(?P<mark>```+|~~~+)[ \t]*[{.]{0,2}(?P<language>[A-Za-z][\w+.#-]{0,30})?\}?"
    r"(?P<rest>[^\n`]*)$",
    re.MULTILINE,
)
# Tags that some benchmarks' prompts ask for in place of a fence.
_TAGS = LazyPattern(
    r"\[(?P<close>/)?(?:PYTHON|CODE)\]|\[(?P<begin>BEGIN)\]|\[(?P<done>DONE)\]|<(?P<close_tag>/)?(?:code|python|pre)>"
    r"|\\(?P<tex>begin|end)\{(?:lstlisting|verbatim|minted)\}(?:\[[^\]\n]*\])?(?:\{python\})?"
)
_CODE_START = LazyPattern(r"^(?:(?:def|class|import|from|async def|@)\b|@)", re.MULTILINE)
_CODE_LINE = LazyPattern(
    r"(?:def|class|async def|import|from|return|for|while|if|with|try|assert|raise|yield|pass)\b|@\w"
    r"|[\w.\[\], ]{1,80}[-+*/|&]?=[^=]|'''|\"\"\"|[\w.]{1,80}\("
)
_PYTHON = LazyPattern(r"i?py(?:thon)?[\d.]*(?:-repl)?|pycon|sage", re.IGNORECASE)
_KEYWORDS = frozenset(keyword.kwlist) | {"print"}
_PROMPT_LANGUAGE = LazyPattern(r"\A\s*python\d?[ \t]*\n")  # behind a fence in the prompt
_LIST_MARK = LazyPattern(r"[-*+]|[0-9]{1,3}[.)]")
_MAX_PARSED_CHARS = 100_000
_MAX_INNER_FENCES = 20  # in one docstring
_MAX_CUT_LINES = 60  # of prose after code without a fence
_MAX_HELPERS = 200


class Block(NamedTuple):
    """A fenced block; the language is in lower case, empty without one."""

    language: str
    code: str

    @property
    def is_python(self) -> bool:
        return _PYTHON.fullmatch(self.language) is not None

    @property
    def may_be_python(self) -> bool:
        return not self.language or self.is_python


def extract_code(answer: str, *names: str) -> str | None:
    """Return the program of an answer, which should define one of `names`; None for an empty answer."""
    text = _answer_part(answer)
    found = list(blocks(text))
    if not found:
        return unfenced(text) if text.strip() else None
    candidates = [block for block in found if block.may_be_python] or found
    python = [block for block in candidates if block.is_python] or candidates
    for group in (python, candidates):
        defining = [block for block in group if any(defines(textwrap.dedent(block.code), name) for name in names)]
        if defining:
            return _with_helpers(defining[-1], candidates, names)
    return _with_helpers(python[-1], candidates, names)


def _answer_part(answer: str) -> str:
    """Return the text without thinking, outside of which no block counts: in answer tags, before a new question."""
    text = without_thinking(answer, is_code=True)
    if not any(True for _ in blocks(text)):
        tagged = final_part(text)
        return tagged.text if tagged.is_tagged else before_new_question(text)
    tagged = final_part(text)
    if tagged.is_tagged and any(True for _ in blocks(tagged.text)):
        return tagged.text
    return text


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks. An unclosed one extends to the end, without prose after the code; one whose opening
    fence stands in the prompt begins with the text."""
    text = _TAGS.sub(_as_fence, text)
    opened: _Opening | None = None
    is_first = True
    for match in _FENCE.finditer(text):
        fence = _Opening.of(match)
        if opened is None:
            head = _PROMPT_LANGUAGE.sub("", text[: fence.end_before])
            if is_first and fence.is_bare and looks_like_code(head):
                yield Block("", head)  # the opening fence is in the prompt
            elif fence.can_open:
                opened = fence
            is_first = False
            continue
        if not fence.mark.startswith(opened.mark):
            continue
        content = opened.content(fence.end_before)
        if opened.num_inner < _MAX_INNER_FENCES and (
            ((fence.before or not fence.is_bare) and not parses(textwrap.dedent(content))) or _ends_in_text(content)
        ):
            opened.num_inner += 1  # a docstring may contain fences
            continue
        yield Block(opened.language, content)
        opened = (
            None if fence.is_bare or fence.before else fence
        )  # of the block before it, the closing fence is missing
    if opened is not None:
        yield Block(opened.language, _without_prose(opened.content(len(text))))


def _as_fence(tag: re.Match[str]) -> str:
    is_end = tag["close"] or tag["close_tag"] or tag["done"] or tag["tex"] == "end"
    return "\n```\n" if is_end else "\n```python\n"


@dataclass
class _Opening:
    """A line with a fence, which opens a block or closes one."""

    match: re.Match[str]
    language: str
    begin: int  # where the code begins, of a block that it opens
    num_inner: int = 0  # fences within that block

    @classmethod
    def of(cls, match: re.Match[str]) -> Self:
        language, rest = match["language"] or "", match["rest"]
        if language.lower() in _KEYWORDS or (language and rest[:1] in tuple("(=[:")):
            return cls(match, "", match.start("language"))  # the code begins right behind the mark
        is_python = _PYTHON.fullmatch(language) is not None
        if is_python and _CODE_LINE.match(rest.strip()) and not rest.strip().startswith("title"):
            return cls(match, language.lower(), match.end() - len(rest.lstrip(" \t")))
        return cls(match, language.lower(), match.end())

    @property
    def mark(self) -> str:
        return self.match["mark"]

    @property
    def before(self) -> str:
        """What stands before it on its line, but for the mark of a quote."""
        return self.match["before"].strip(" \t>")

    @property
    def end_before(self) -> int:
        """Where a block ends that it closes: the code may stand on the same line."""
        return self.match.start("mark") if self.before else self.match.start()

    @property
    def is_bare(self) -> bool:
        """Whether nothing stands behind it, as behind a closing fence."""
        return not (self.match["language"] or self.match["rest"].strip())

    @property
    def can_open(self) -> bool:
        """Whether it may open a block. Behind words, `use ``` to begin` is no fence."""
        if not self.before or _LIST_MARK.fullmatch(self.before):
            return True
        is_python = _PYTHON.fullmatch(self.language) is not None
        return self.mark[0] == "`" and (self.is_bare or is_python or not self.match["rest"].strip())

    def content(self, end: int) -> str:
        """Return the text of its block, without what stands before the fence: indentation (in lists), or the mark of a
        quote."""
        lead = self.match["before"]
        content = self.match.string[self.begin : end].removeprefix("\n")
        if lead.strip(" \t") == ">":
            return re.sub(r"^[ \t]*>[ ]?", "", content, flags=re.MULTILINE)
        indent = len(lead) if not lead.strip() or _LIST_MARK.fullmatch(lead.strip()) else 0
        return re.sub(rf"^[ \t]{{1,{indent}}}", "", content, flags=re.MULTILINE) if indent else content


def _ends_in_text(code: str) -> bool:
    """Whether the code ends inside a triple-quoted string."""
    return any(code.count(quotes) % 2 for quotes in ('"""', "'''")) and not parses(textwrap.dedent(code))


def looks_like_code(text: str) -> bool:
    """Whether a text is Python, and not words that happen to be."""
    bare = textwrap.dedent(text.strip("\r\n"))
    first = next((line for line in bare.split("\n") if line.strip() and not line.lstrip().startswith("#")), "")
    return bool(_CODE_LINE.match(first.lstrip())) and (parses(bare) or _parses_as_body(text))


def unfenced(text: str) -> str:
    """Return the code of a text without a fence, without prose before and after it; the whole text if it has none."""
    if parses(text):
        return text
    if looks_like_code(first := _without_prose(text)) and first != text:
        return first
    start = _CODE_START.search(text)
    return text if start is None else _without_prose(text[start.start() :], default=text)


def _without_prose(text: str, default: str | None = None) -> str:
    """Return the text without the lines at its end that make it no Python; `default` (else the text) if that is all."""
    default = text if default is None else default
    lines = text.split("\n")
    for end in range(len(lines), max(0, len(lines) - _MAX_CUT_LINES), -1):
        code = "\n".join(lines[:end])
        if code.strip() and (parses(code) or parses(textwrap.dedent(code)) or _parses_as_body(code)):
            return code if end < len(lines) else text
    return default


def _parses_as_body(code: str) -> bool:
    """Whether it continues the head of a function; the first line may have lost its indentation."""
    first, _, rest = code.strip("\r\n").partition("\n")
    return bool(rest.strip()) and first.strip() != "" and parses(f"def f():\n    {first.strip()}\n{rest}")


def _with_helpers(main: Block, others: Sequence[Block], names: Iterable[str]) -> str:
    """Return the main block, after the definitions and imports of the other blocks that it needs and lacks."""
    tree = parsed(textwrap.dedent(main.code))
    rest = [block for block in others if block is not main]
    if tree is None or not rest:
        return main.code
    known = {*_names_of(tree.body), *dir(builtins)}
    missing = ({*_used(tree)} | {*names}) - known - {*_bound_inside(tree)}
    found: dict[int, str] = {}  # source by place, so that the order stays
    sources = [source for block in rest for source in _statements(block)]
    for _ in range(_MAX_HELPERS):
        open_places = (place for place in reversed(range(len(sources))) if place not in found)
        place = next((place for place in open_places if sources[place][1] & missing), None)
        if place is None:
            break
        source, defined, used = sources[place]
        found[place] = source
        known |= defined
        missing = (missing | used) - known
    helpers = [found[place] for place in sorted(found)]
    return "\n".join([*helpers, textwrap.dedent(main.code)]) if helpers else main.code


def _statements(block: Block) -> Iterator[tuple[str, set[str], set[str]]]:
    """Yield (source, names defined, names used) of the definitions and imports of a block."""
    code = textwrap.dedent(block.code)
    tree = parsed(code)
    lines = code.split("\n")
    for node in tree.body if tree else ():
        defined = {*_names_of([node])}
        if not defined or (isinstance(node, ast.Assign | ast.AnnAssign) and _calls_input(node)):
            continue
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
        yield "\n".join(lines[first - 1 : node.end_lineno]), defined, {*_used(node)} - {*_bound_inside(node)}


def _calls_input(node: ast.AST) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "input" for one in ast.walk(node))


def _used(tree: ast.AST) -> Iterator[str]:
    return (node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))


def _bound_inside(tree: ast.AST) -> Iterator[str]:
    """Yield the names that functions bind for themselves: parameters and variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def defines(code: str, name: str) -> bool:
    """Whether the code defines or assigns `name` at module level."""
    tree = parsed(code)
    if tree is None:
        return re.search(rf"^(?:async )?(?:def|class) {re.escape(name)}\b", code, re.MULTILINE) is not None
    return name in _names_of(tree.body, with_imports=False)


def _names_of(statements: Sequence[ast.stmt], *, with_imports: bool = True) -> Iterator[str]:
    """Yield the names that are defined, assigned or imported at module level, inside `if`, `try` and `with` too."""
    waiting: list[ast.AST] = [*statements]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom) and with_imports:
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            waiting += ast.iter_child_nodes(node)


def parses(code: str) -> bool:
    """Whether the text is Python."""
    return parsed(code) is not None


def parsed(code: str) -> ast.Module | None:
    """Return the syntax tree; None if the text is not Python, or too long to find out."""
    if len(code) > _MAX_PARSED_CHARS:
        return None
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
