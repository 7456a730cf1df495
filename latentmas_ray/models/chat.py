"""Prompts to token ids by the tokenizer's chat template, in bounded time, and token ids back to text."""

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import cached_property, partial
from threading import Thread, get_ident
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

# For base models, which have no chat template: the messages as paragraphs.
PLAIN_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n\n{% endfor %}"


class ChatTokenizer:
    """The tokenizer of one model with its chat template and end tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str, extra_stop_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.name = name
        eos = tokenizer.eos_token_id
        self.stop_ids = frozenset(extra_stop_ids) | (frozenset() if eos is None else {eos})

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template. Models without one do not end their texts reliably."""
        return bool(self.tokenizer.chat_template)

    def encode(self, messages: Sequence[Mapping[str, str]], template: Mapping[str, Any], suffix: str) -> list[int]:
        """Return the prompt's token ids: the chat template with `add_generation_prompt`, then `suffix`, nothing else.

        If the template has no system role, the system message becomes the first paragraph of the user's. Raises
        ModelError if the template rejects the messages or exceeds its limits, or if the result is empty.
        """
        try:
            text = self._render(messages, template)
        except _REFUSALS as error:
            try:
                text = self._render(_without_system_role(messages), template)
            except _REFUSALS:
                raise ModelError("model", self.name, f"its chat template must accept the prompt: {error}") from error
        ids = self.tokenizer(text + suffix, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ModelError("model", self.name, "its chat template must make at least one token of the prompt")
        return list(ids)

    def _render(self, messages: Sequence[Mapping[str, str]], template: Mapping[str, Any]) -> str:
        ours: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
        if not self.tokenizer.chat_template:
            ours["chat_template"] = PLAIN_TEMPLATE
        if clash := ours.keys() & template.keys():
            raise ValueError(f"{', '.join(sorted(clash))} cannot be set")
        return self._apply([dict(message) for message in messages], **ours, **template)

    def _apply(self, messages: list[dict[str, str]], **arguments: Any) -> str:
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
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @cached_property
    def turn_terminator(self) -> list[int]:
        """The tokens that the chat template writes after an assistant's message, found by rendering one.

        Falls back to the end-of-sequence token if the template cannot render it.
        """
        marker = "\u2603marker\u2603"
        eos = [] if self.tokenizer.eos_token_id is None else [int(self.tokenizer.eos_token_id)]
        if not self.tokenizer.chat_template:
            return eos
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": marker}]
        try:
            text = self._apply(messages, tokenize=False)
        except (*_REFUSALS, ModelError):
            return eos
        _, found, tail = text.rpartition(marker)
        return list(self.tokenizer(tail, add_special_tokens=False)["input_ids"]) if found and tail else eos


def _without_system_role(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The same messages with a leading system message as the first paragraph of the next one."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return list(messages)
    first, second, *rest = messages
    return [{**second, "content": f"{first['content']}\n\n{second['content']}"}, *rest]


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
