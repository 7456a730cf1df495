"""Prompts to token ids by the tokenizer's chat template, in bounded time, and token ids back to text."""

import ctypes
import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import cached_property, partial
from threading import RLock, Thread, get_ident
from typing import Any, TypeVar

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from latentmas_ray.errors import ModelError
from latentmas_ray.tasks.grading.final_part import is_answer_mark

_T = TypeVar("_T")
_POLL_SECONDS = 0.01
_NUM_INTERRUPTS = 100

# Limits of a model's chat template, which is a program that comes with the model; one prompt takes about a millisecond.
MAX_TEMPLATE_SECONDS = 5.0  # CPU time
MAX_TEMPLATE_CHARS = 20_000_000
_REFUSALS = (TemplateError, ValueError, TypeError, ArithmeticError, RecursionError)

# Words that some templates read as a setting and take out of the text wherever they stand.
_CONTROLS = re.compile(r"/(?:no_think|think|system_override)")
_EMPTY = "its chat template must make at least one token of the prompt"
_SHOWN_PARTS = ("'type': 'text'", '"type": "text"')  # a list of parts that a template prints as it is
_NUM_PROBE_PARAGRAPHS = 40  # of the messages with which a template is tried

# For base models, which have no chat template: the messages as paragraphs.
PLAIN_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n\n{% endfor %}"


class ChatTokenizer:
    """The tokenizer of one model with its chat template and end tokens. Thread-safe: a fast tokenizer has settings that
    it changes for each call, so only one thread at a time may use it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str, extra_stop_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self._lock = RLock()
        eos = tokenizer.eos_token_id
        self.stop_ids = frozenset(extra_stop_ids) | (frozenset() if eos is None else {eos})

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template. Models without one do not end their texts reliably."""
        return bool(self.tokenizer.chat_template)

    def encode(self, messages: Sequence[Mapping[str, str]], template: Mapping[str, Any], suffix: str) -> list[int]:
        """Return the prompt's token ids: the chat template with `add_generation_prompt`, then `suffix`, nothing else.

        Without a chat template the ids begin as the tokenizer begins a text. The text of every message is in the
        prompt: if the template refuses a role, leaves its text out, or reads `content` as a list of parts, it gets the
        messages in the form that it shows (`_forms`). Raises ModelError if there is none, if the template exceeds its
        limits, or if the result is empty.
        """
        with self._lock:
            text = self._text_of(messages, template) + suffix
            ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            if not ids:
                raise ModelError("model", self.name, _EMPTY)
            if not self.tokenizer.chat_template and ids[: len(self._text_start)] != self._text_start:
                return self._text_start + ids
            return ids

    # The lock is taken before a cached value is asked for: `cached_property` has a lock of its own.
    @cached_property
    def _text_start(self) -> list[int]:
        """The tokens that the tokenizer writes before a text, such as BOS; empty if it writes none."""
        probe = "Question 1"
        plain = list(self.tokenizer(probe, add_special_tokens=False)["input_ids"])
        whole = list(self.tokenizer(probe)["input_ids"])
        starts = range(len(whole) - len(plain) + 1)
        return next((whole[:start] for start in starts if whole[start : start + len(plain)] == plain), [])

    def check_template(self) -> None:
        """Raises ModelError for a template that cannot show a long system and user message, or does not end. One that
        refuses them may still accept a prompt with the arguments of its agent."""
        numbers = range(_NUM_PROBE_PARAGRAPHS)
        messages = [
            {"role": role, "content": "\n\n".join(f"Paragraph {number} of the {role} text." for number in numbers)}
            for role in ("system", "user")
        ]
        with suppress(_RefusedError):
            self.encode(messages, {}, "")

    def _text_of(self, messages: Sequence[Mapping[str, str]], template: Mapping[str, Any]) -> str:
        refusal: Exception | None = None
        failure = ""
        for form in _forms(messages):
            try:
                text = self._render(form, template)
            except ModelError:  # beyond the limits; a ValueError too
                raise
            except _REFUSALS as error:
                refusal = refusal or error
                continue
            role = _role_left_out(messages, text)
            if role is None and not _shows_parts(form, text):
                return text
            lack = f"it leaves out text of the {role} message" if role else "it prints a list instead of a text"
            expected = f"its chat template must show every message whole: {lack}"
            failure = failure or (expected if text.strip() else _EMPTY)
        if failure:
            raise ModelError("model", self.name, failure)
        expected = f"its chat template must accept the prompt: {refusal}"
        raise _RefusedError("model", self.name, expected) from refusal

    def _render(self, messages: Sequence[Mapping[str, Any]], template: Mapping[str, Any]) -> str:
        ours: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
        if not self.tokenizer.chat_template:
            ours["chat_template"] = PLAIN_TEMPLATE
        if clash := ours.keys() & template.keys():
            raise ValueError(f"{', '.join(sorted(clash))} cannot be set")
        return self._apply([dict(message) for message in messages], **ours, **template)

    def _apply(self, messages: list[dict[str, Any]], **arguments: Any) -> str:
        """Return the chat template's text, in bounded time; the memory of a single operation is not bounded. Raises
        ModelError beyond the limits, and what the template raises."""
        call = partial(self.tokenizer.apply_chat_template, messages, **arguments)
        try:
            text = str(call_with_time_limit(call, MAX_TEMPLATE_SECONDS))
        except (TimeoutError, MemoryError) as error:
            reason = "it takes too much memory" if isinstance(error, MemoryError) else str(error)
            raise ModelError("model", self.name, f"its chat template must render a prompt: {reason}") from error
        if len(text) > MAX_TEMPLATE_CHARS:
            expected = f"its chat template must make at most {MAX_TEMPLATE_CHARS} characters, not {len(text)}"
            raise ModelError("model", self.name, expected)
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without special tokens, but with those that say where thinking or the final answer begins or
        ends, as `[THINK]` and `</think>` of some tokenizers."""
        with self._lock:
            if self._marks.isdisjoint(ids):
                return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
            shown = [token for token in ids if token in self._marks or token not in self._special_ids]
            return str(self.tokenizer.decode(shown, skip_special_tokens=False))

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(self.tokenizer.all_special_ids) | {index for index, token in added if token.special}

    @cached_property
    def _marks(self) -> frozenset[int]:
        """The special tokens that `decode` keeps."""
        tokens = zip(self._special_ids, self.tokenizer.convert_ids_to_tokens([*self._special_ids]), strict=True)
        return frozenset(index for index, token in tokens if is_answer_mark(token)) - self.stop_ids

    def show(self, ids: Sequence[int]) -> str:
        """The text of ids with special tokens; empty for ids that are not in the tokenizer."""
        with self._lock:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def plain_text(self, ids: Sequence[int]) -> str:
        """The text of ids without special tokens, as it was written."""
        with self._lock:
            return self.show([token for token in ids if token not in self._special_ids])

    def encode_text(self, text: str) -> list[int]:
        """The token ids of a text, without a chat template and without what the tokenizer writes around a text."""
        with self._lock:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def turn_terminator(self) -> list[int]:
        """The tokens that the chat template writes after an assistant's message, found by rendering one.

        Falls back to the end-of-sequence token if the template cannot render it.
        """
        with self._lock:
            return self._turn_terminator

    @cached_property
    def _turn_terminator(self) -> list[int]:
        marker = "\u2603marker\u2603"
        eos = [] if self.tokenizer.eos_token_id is None else [int(self.tokenizer.eos_token_id)]
        if not self.tokenizer.chat_template:
            return eos
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": marker}]
        for form in _forms(messages):
            try:
                text = self._apply(form, tokenize=False)
            except ModelError:
                break
            except _REFUSALS:
                continue
            _, found, tail = text.rpartition(marker)
            if found and tail and not _shows_parts(form, text):
                return list(self.tokenizer(tail, add_special_tokens=False)["input_ids"])
        return eos


class _RefusedError(ModelError):
    """A chat template raised an error for every form of the messages."""


def _forms(messages: Sequence[Mapping[str, str]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the forms in which a template may show the messages: as they are, with roles that it may not know moved
    into the user's messages, and with `content` as a list of parts."""
    roles = list(dict.fromkeys(message["role"] for message in messages))
    extra = [role for role in roles if role not in ("user", "assistant")]
    folds = list(dict.fromkeys([frozenset[str](), *(frozenset({role}) for role in extra), frozenset(extra)]))
    folded = [_folded(messages, fold) for fold in folds]
    yield from folded
    yield _in_parts(messages, roles)
    for in_parts in (["user"], extra) if extra else ():
        yield _in_parts(messages, in_parts)
    for form in folded[1:]:
        yield _in_parts(form, roles)


def _folded(messages: Sequence[Mapping[str, str]], roles: Collection[str]) -> list[dict[str, str]]:
    """The messages without those of `roles`, whose text opens the next user message, or else closes the last one."""
    kept: list[dict[str, str]] = []
    moved: list[str] = []
    for message in messages:
        if message["role"] in roles:
            moved.append(message["content"])
            continue
        kept.append(dict(message))
        if message["role"] == "user" and moved:
            kept[-1]["content"] = "\n\n".join([*moved, message["content"]])
            moved = []
    if moved and kept and kept[-1]["role"] == "user":
        kept[-1]["content"] = "\n\n".join([kept[-1]["content"], *moved])
    elif moved:
        kept.append({"role": "user", "content": "\n\n".join(moved)})
    return kept


def _in_parts(messages: Sequence[Mapping[str, str]], roles: Collection[str]) -> list[dict[str, Any]]:
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if message["role"] in roles
        else {**message}
        for message in messages
    ]


def _role_left_out(messages: Sequence[Mapping[str, str]], text: str) -> str | None:
    """The role of a message whose text is not in `text`; None if all are there, each in a place of its own.

    White space may differ, and the text may be written as in JSON.
    """
    left = _plain(text)
    for message in sorted(messages, key=lambda message: -len(message["content"])):
        content = message["content"]
        spellings = (content, json.dumps(content, ensure_ascii=False)[1:-1], json.dumps(content)[1:-1])
        found = next((plain for plain in map(_plain, spellings) if plain in left), None)
        if found is None:
            return message["role"]
        if found:
            left = left.replace(found, "\0", 1)
    return None


def _plain(text: str) -> str:
    return " ".join(_CONTROLS.sub(" ", text).split())


def _shows_parts(form: Sequence[Mapping[str, Any]], text: str) -> bool:
    """Whether a template printed a list of parts as it is."""
    parts = [message["content"][0]["text"] for message in form if not isinstance(message["content"], str)]
    return bool(parts) and any(mark in text and mark not in "".join(parts) for mark in _SHOWN_PARTS)


class _Interrupted(SystemExit):
    """Ends a thread without a message; an `except Exception` in its function does not catch it."""


def call_with_time_limit(function: Callable[[], _T], cpu_seconds: float) -> _T:
    """Call `function` in a new thread; return its result or raise its error.

    Raises TimeoutError when the thread has used `cpu_seconds` of CPU time, which does not depend on the machine's load.
    The function is then interrupted at its next Python step; inside a long C call it ends after that call, without
    being waited for. The same happens when the caller is interrupted.
    """
    future: Future[_T] = Future()
    clocks: list[int] = []

    def run() -> None:
        try:
            clocks.append(time.pthread_getcpuclockid(get_ident()))
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is awaited
            future.set_exception(error)

    thread = Thread(target=run, name="time limit", daemon=True)
    thread.start()
    try:
        left = cpu_seconds
        while left > 0 and not wait([future], timeout=max(left, _POLL_SECONDS)).done:
            left = cpu_seconds - _seconds_of(clocks)
    finally:
        if not future.done():
            _interrupt(thread)
    if left <= 0:
        raise TimeoutError(f"it takes more than {cpu_seconds:g} s")
    return future.result()


def _seconds_of(clocks: list[int]) -> float:
    """CPU seconds of a thread; 0 before its clock is known and after its end."""
    with suppress(OSError):
        return time.clock_gettime(clocks[0]) if clocks else 0.0
    return 0.0


def _interrupt(thread: Thread) -> None:
    """Raise in another thread through Python's C API, repeatedly for a second: one may be swallowed, for example by a
    destructor."""
    for _ in range(_NUM_INTERRUPTS):
        if not thread.is_alive() or thread.ident is None:
            break
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Interrupted))
        thread.join(_POLL_SECONDS)
