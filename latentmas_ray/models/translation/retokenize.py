"""Token ids of one model as token ids of another: the same text, in the reader's turns of a conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.errors import ModelError
from latentmas_ray.models.chat import ChatTokenizer

_UNDECODED = "\ufffd"
_PROBES = {"system": "The rules of the probe.", "user": "The question of the probe."}
_ROLES = (("user",), ("system", "user"))  # of the prompts that agents get


@dataclass(frozen=True)
class _Frame:
    """What a chat template writes around the messages of these roles: one more text than there are roles, the last of
    which begins the answer."""

    roles: Sequence[str]
    texts: Sequence[str]

    def messages_in(self, text: str) -> tuple[list[Mapping[str, str]], str] | None:
        """The messages of a prompt with this frame, and what follows the beginning of the answer; None for another
        text, as that of a conversation with earlier answers."""
        first, *between, last = self.texts
        end = text.rfind(last)
        if end < len(first) or not text.startswith(first):
            return None
        messages: list[Mapping[str, str]] = []
        rest = text[len(first) : end]
        for role, mark in zip(self.roles, between, strict=False):
            content, found, rest = rest.partition(mark)
            if not found:
                return None
            messages.append({"role": role, "content": content})
        if last.strip() and last.strip() in rest:
            return None
        return [*messages, {"role": self.roles[-1], "content": rest}], text[end + len(last) :]


class Retokenizer:
    """Turns stretches of token ids of `writer` into token ids of `reader`.

    A prompt that the writer's chat template made is taken apart into its messages, and the reader's template writes
    them again: the marks of turns are those that the reader knows. In any other stretch the marks, which are special
    tokens, are left out. `keeps_turns` False leaves them out everywhere.
    """

    def __init__(self, writer: ChatTokenizer, reader: ChatTokenizer, *, keeps_turns: bool = True) -> None:
        self._writer, self._reader = writer, reader
        self._frames = [frame for roles in _ROLES if (frame := _frame(writer, roles))] if keeps_turns else []

    def __call__(self, ids: Sequence[int]) -> list[int]:
        """Return the reader's ids, none for a stretch without text. Bytes of a character that begins before or ends
        after the stretch are left out. Raises ModelError if the reader's template refuses the messages."""
        whole = self._writer.show(ids)
        for frame in self._frames:
            if (found := frame.messages_in(whole)) is not None:
                messages, rest = found
                return self._reader.encode(messages, {}, rest)
        return self._reader.encode_text(self._writer.plain_text(ids).strip(_UNDECODED))


def _frame(chat: ChatTokenizer, roles: Sequence[str]) -> _Frame | None:
    """The frame of a chat template; None if it does not show these roles one after another."""
    messages = [{"role": role, "content": _PROBES[role]} for role in roles]
    try:
        rest = chat.show(chat.encode(messages, {}, ""))
    except ModelError:
        return None
    texts: list[str] = []
    for role in roles:
        text, found, rest = rest.partition(_PROBES[role])
        if not found:
            return None
        texts.append(text)
    return _Frame(roles, [*texts, rest]) if rest else None
