"""Finds the thinking of a model in its answer, by the marks that models put around it. All functions take linear time.

A mark is recognised by its form and by what it names, so one of a new model is too: `<think>`, `<thinking>`,
`<seed:think>`, `<reasoning>`, `[THINK]`, `<|begin_of_thought|>`, `<|START_THINKING|>`, `◁think▷`, each with its closing
form. Of answers in channels (`<|channel|>analysis<|message|>…`), all but those of the final one are thinking.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from latentmas_ray.patterns import LazyPattern

Role = Literal["open", "close", "resume", "drop", "heading"]

_NAMES = (
    r"think(?:ing)?|thoughts?|reason(?:ing)?|rationale|reflect(?:ion|ing)?|scratch_?pad|analysis|monologue"
    r"|chain_of_thought|cot|working_out|deliberation"
)
_BEFORE = r"(?:[A-Za-z]{1,20}[:_-]){0,2}"  # a namespace or a model: seed:think, longcat_think, inner_monologue
_AFTER = r"(?:[_ -](?:process|block|section|trace|steps?))?"
_START, _END = r"(?:begin|start)(?:_?of)?_", r"(?:end|stop)(?:_?of)?_"
_FAMILIES = (("think", "thought"), ("reason",), ("reflect",))  # <thought>…</thinking> is one block
_QUOTES = "\"'`“”‘’"
_SPLIT_NUMBER = LazyPattern("([0-9])\0+([0-9])")  # digits around a block are not one number
_PARTS = frozenset({"<|message|>", "<|start|>", "<|im_start|>"})  # a mark is this and the words around it
_LINE_WINDOW = 400  # characters around a mark in which its line is looked for

_MARK = LazyPattern(
    # <think>, </think>, <think lang="en">, <start_working_out>; a tag that closes itself holds nothing
    rf"<[ ]?(?P<close_tag>/|{_END})?[ ]?(?:{_START})?{_BEFORE}(?P<tag>{_NAMES}){_AFTER}(?:\s[^<>]{{0,200}})?[ ]?"
    r"(?P<empty>/)?>"
    # <|begin_of_thought|>, <|END_THINKING|>, <|/think|>, <|thinking_end|>
    rf"|<\|[ ]?(?P<close_pipe>/|{_END})?(?:{_START})?{_BEFORE}(?P<pipe>{_NAMES})"
    r"(?:_(?:(?P<pipe_end>end)|start|begin))?[ ]?\|>"
    rf"|◁[ ]?(?P<close_triangle>/)?[ ]?(?P<triangle>{_NAMES})[ ]?▷"
    rf"|\[(?P<close_bracket>/)?(?P<bracket>think(?:ing)?|(?-i:THOUGHTS?|REASON(?:ING)?|REFLECTION))\]"
    # Channels: everything is thinking but the final one.
    r"|<\|channel\|>\s{0,4}(?P<channel>[A-Za-z_]{0,30})(?:[^<\n]{0,80}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>)?"
    r"|<(?:\|channel|unused94)>\s{0,4}(?P<channel_tag>[A-Za-z_]{0,30})|(?P<close_channel><channel\|>|<unused95>)"
    r"|<\|im_start\|>\s{0,4}(?:(?P<turn>think(?:ing)?|analysis)|(?P<turn_end>answer|final))\b"
    # The beginning of what the user is meant to see.
    rf"|(?P<resume><\|(?:START_(?:RESPONSE|TEXT|ANSWER)|{_START}(?:solution|response|answer))\|>)"
    r"|(?P<drop><\|(?:END_(?:RESPONSE|TEXT|ANSWER)|(?:end|stop)(?:_?of)?_(?:solution|response|answer)"
    r"|message|end|return|call|im_end|constrain)\|>|<\|im_start\|>(?!\s?user)|<\|start\|>(?:assistant)?|</?response>)"
    r"|(?P<heading>^\[(?:FINAL[ _])?(?:ANSWER|RESPONSE|RESULT|CONCLUSION|SOLUTION|OUTPUT)\])"
    # Marks in words, at the beginning of a line.
    r"|(?P<granite>\A\s{0,9}Here(?: is|['’]s) my thought process:)"
    r"|(?P<granite_end>^\s{0,9}Here(?: is|['’]s) my response:)"
    # Channels whose marks were left out when the answer was decoded.
    r"|(?P<bare>\A\s{0,9}analysis(?=(?-i:[A-Z0-9\"“'<\\])))|(?P<bare_end>assistant(?:<\|channel\|>)?final(?!(?-i:[a-z])))",
    re.IGNORECASE | re.MULTILINE,
)


class _ThinkingMark(NamedTuple):
    start: int
    end: int
    role: Role
    family: str


def strip_thinking(text: str) -> str:
    """Return the text without its blocks of thinking.

    An unclosed block extends to the end. A closing mark without an opening one ends a block that began before the text
    (chat templates often put the opening mark into the prompt). A mark in quotes is spoken of, and marks nothing.
    """
    return without_thinking(text).strip()


def without_thinking(text: str, *, is_code: bool = False) -> str:
    """Like `strip_thinking`, but keep white space: a line of code may begin with it.

    With `is_code` an opening mark must begin a line: a program may handle such marks itself.
    """
    parts: list[str] = []
    start = 0
    blocks: list[str] = []  # the families of the open blocks, outermost first
    for mark in _usable(text, is_code=is_code):
        if mark.role == "open":
            if not blocks:
                parts.append(text[start : mark.start])
            if mark.family not in blocks:
                blocks.append(mark.family)
        elif mark.role == "close" and blocks:
            if mark.family in blocks:
                del blocks[blocks.index(mark.family) :]
                start = mark.end
        elif mark.role == "heading":
            if blocks and blocks[0][0] == "[":  # [REASONING] was a heading, too
                blocks.clear()
                start = mark.start
        elif mark.role in ("close", "resume"):
            parts.clear()
            blocks.clear()
            start = mark.end
        elif not blocks:  # drop
            parts.append(text[start : mark.start])
            start = mark.end
    if not blocks:
        parts.append(text[start:])
    return _SPLIT_NUMBER.sub(r"\1\n\2", "\0".join(parts)).replace("\0", "")


def is_mark(token: str) -> bool:
    """Whether a token of a tokenizer is such a mark, or a part of one."""
    match = _MARK.fullmatch(token.strip())
    return match is not None and (match["drop"] is None or token.strip() in _PARTS)


def _usable(text: str, *, is_code: bool) -> Iterator[_ThinkingMark]:
    """Yield the marks that mark something."""
    marks = list(_marks(text, is_code=is_code))
    families = {mark.family for mark in marks if mark.role == "open"}
    for mark in marks:
        if mark.family in ("granite", "bare") and mark.role == "close" and mark.family not in families:
            continue  # these words mean something only after the words that open
        yield mark


def _marks(text: str, *, is_code: bool) -> Iterator[_ThinkingMark]:
    quoted_line = -1  # the end of the line in which an opening mark was quoted
    for match in _MARK.finditer(text):
        if match["empty"]:
            continue
        mark = _read(match)
        is_after_quote = _is_quote(text[max(0, mark.start - 3) : mark.start], -1)
        if mark.role == "open":
            line = text[max(0, mark.start - _LINE_WINDOW) : mark.start].rpartition("\n")[2] if is_code else ""
            if is_after_quote or line.strip():
                quoted_line = mark.end + len(text[mark.end : mark.end + _LINE_WINDOW].partition("\n")[0])
                continue
        elif (
            mark.role == "close"
            and (is_after_quote or mark.end <= quoted_line)
            and _is_quote(text[mark.end : mark.end + 3], 0)
        ):
            continue
        yield mark


def _is_quote(around: str, index: int) -> bool:
    """Whether the character at `index` of three is a quote, and no fence of code."""
    return around != "```" and around != "" and around[index] in _QUOTES


def _read(match: re.Match[str]) -> _ThinkingMark:
    """Return the mark's role, and the family of its name."""
    span = match.start(), match.end()
    for form in ("tag", "pipe", "triangle", "bracket"):
        if name := match[form]:
            is_end = match[f"close_{form}"] or (form == "pipe" and match["pipe_end"])
            is_word = form == "bracket" and not name.lower().startswith("think")
            return _ThinkingMark(*span, "close" if is_end else "open", f"[{name}" if is_word else _family(name))
    for form in ("channel", "channel_tag"):
        if match[form] is not None:
            return _ThinkingMark(*span, "resume" if match[form].lower() == "final" else "open", "channel")
    if match["close_channel"]:
        return _ThinkingMark(*span, "close", "channel")
    for form in ("turn", "granite", "bare"):
        if match[form]:
            return _ThinkingMark(*span, "open", form)
        if match[f"{form}_end"]:
            return _ThinkingMark(*span, "close", form)
    return _ThinkingMark(*span, "resume" if match["resume"] else "heading" if match["heading"] else "drop", "")


def _family(name: str) -> str:
    name = name.lower()
    return next((roots[0] for roots in _FAMILIES if name.startswith(roots)), name)
