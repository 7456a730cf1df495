"""Prompts become token ids by the model's own chat template, and nothing is added to them."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from latentmas_ray.errors import ModelError
from latentmas_ray.models import chat as chat_module
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.presets import tiny_tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "2 + 2?"}
LISTENS = "{{ 'think' if enable_thinking else 'no thought' }}: {{ messages[0]['content'] }}"
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ messages[0]['content'] }}"
)
USER_ONLY = "{% for m in messages %}{% if m['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}{% endfor %}x"
SHOUTS = "{% for m in messages %}<|im_start|>{{ m['content'] | upper }}<|im_end|>{% endfor %}"


def chat_of(template: str | None, stop_ids: Sequence[int] = ()) -> ChatTokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return ChatTokenizer(tokenizer, "my-model", stop_ids)


@pytest.fixture
def chat() -> ChatTokenizer:
    return ChatTokenizer(tiny_tokenizer(), "my-model")


def text_of(chat: ChatTokenizer, ids: Sequence[int]) -> str:
    return str(chat.tokenizer.decode(list(ids), skip_special_tokens=False))


def test_the_template_and_the_generation_prompt_are_the_whole_prompt(chat: ChatTokenizer) -> None:
    assert text_of(chat, chat.encode([SYSTEM, USER], {}, "")) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_no_special_token_is_added(chat: ChatTokenizer) -> None:
    chat.tokenizer.add_bos_token = True
    ids = chat.encode([USER], {}, "")
    assert ids[0] == chat.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert ids.count(chat.tokenizer.eos_token_id) == 1


def test_the_suffix_follows_the_generation_prompt(chat: ChatTokenizer) -> None:
    plain, longer = chat.encode([USER], {}, ""), chat.encode([USER], {}, "<think>\n")
    assert longer[: len(plain)] == plain
    assert text_of(chat, longer[len(plain) :]) == "<think>\n"


def test_keyword_arguments_reach_the_template() -> None:
    chat = chat_of(LISTENS)
    assert text_of(chat, chat.encode([USER], {"enable_thinking": True}, "")) == "think: 2 + 2?"
    assert text_of(chat, chat.encode([USER], {"enable_thinking": False}, "")) == "no thought: 2 + 2?"


def test_a_base_model_gets_plain_paragraphs() -> None:
    chat = chat_of(None)
    assert text_of(chat, chat.encode([SYSTEM, USER], {}, "Answer:")) == "Be brief.\n\n2 + 2?\n\nAnswer:"


def test_without_a_system_role_the_system_message_opens_the_users() -> None:
    chat = chat_of(NO_SYSTEM)
    assert text_of(chat, chat.encode([SYSTEM, USER], {}, "")) == "Be brief.\n\n2 + 2?"
    assert text_of(chat, chat.encode([USER], {}, "")) == "2 + 2?"


@pytest.mark.parametrize(
    ("template", "arguments", "reason"),
    [
        ("{{ raise_exception('nobody may speak') }}", {}, "nobody may speak"),
        ("{{ messages[0].nothing.at_all }}", {}, "chat template"),
        ("{% if %}", {}, "chat template"),
        ("{{ messages[0]['content'] }}", {"tokenize": True}, "chat template"),
        (None, {"chat_template": "x"}, "chat template"),
        ("{# nothing #}", {}, "at least one token"),
    ],
)
def test_a_template_that_refuses_is_told_in_one_line(
    template: str | None, arguments: dict[str, object], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        chat_of(template).encode([SYSTEM, USER], arguments, "")
    assert str(caught.value).startswith("model: got 'my-model'; its chat template must")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "reason", "seconds"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            r"takes more than 0\.1 s",
            0.1,
        ),
        ("{{ 'x' * 20001 }}", "at most 20000 characters, not 20001", 60),
        ("{{ 'x' * 10 ** 15 }}", "too much memory", 60),
        ("{{ range(10 ** 9) }}", "Range too big", 60),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion", 60),
    ],
)
def test_a_template_that_takes_or_makes_too_much_is_refused_in_one_line(
    template: str, reason: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_module, "MAX_TEMPLATE_SECONDS", seconds)
    monkeypatch.setattr(chat_module, "MAX_TEMPLATE_CHARS", 20_000)
    chat = chat_of(template)
    with pytest.raises(ModelError, match=reason) as caught:
        chat.encode([SYSTEM, USER], {}, "")
    assert str(caught.value).startswith("model: got 'my-model'; its chat template must")
    assert "\n" not in str(caught.value)
    assert chat.turn_terminator == [2]


@pytest.mark.parametrize("text", ["plain", "žluťoučký kůň", "数学 🦊", "a\n\n  b\t"])
def test_text_survives_tokens(text: str, chat: ChatTokenizer) -> None:
    assert chat.decode(chat.tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_special_tokens_are_no_text(chat: ChatTokenizer) -> None:
    assert chat.decode([2, *chat.tokenizer("yes")["input_ids"], 2, 0]) == "yes"


def test_half_a_character_is_no_error(chat: ChatTokenizer) -> None:
    assert isinstance(chat.decode(chat.tokenizer("🦊")["input_ids"][:2]), str)


def test_all_end_tokens_stop() -> None:
    assert chat_of(None, [7, 8]).stop_ids == {2, 7, 8}


def test_the_terminator_is_what_the_template_writes_after_a_turn(chat: ChatTokenizer) -> None:
    assert text_of(chat, chat.turn_terminator) == "<|im_end|>\n"


@pytest.mark.parametrize("template", [None, USER_ONLY, SHOUTS, "always the same"])
def test_a_terminator_that_the_template_does_not_show_is_the_end_token(template: str | None) -> None:
    assert chat_of(template).turn_terminator == [2]


def test_marks_of_thinking_are_kept_though_they_are_special_tokens() -> None:
    marks = ["[THINK]", "[/THINK]", "<|START_THINKING|>", "<|channel|>", "<|message|>", "<answer>", "</answer>"]
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*marks, "<|tool|>"]})
    chat = ChatTokenizer(tokenizer, "my-model")
    for text in (
        "[THINK]At first 9.[/THINK]It is 12.",
        "<|START_THINKING|>At first 9.",
        "<|channel|>analysis<|message|>At first 9.<|channel|>final<|message|>It is 12.",
        "It is <answer>12</answer>",
    ):
        assert chat.decode(chat.tokenizer(f"{text}<|tool|><|im_end|>", add_special_tokens=False)["input_ids"]) == text
    assert chat.decode(chat.tokenizer("12<|tool|><|im_end|>", add_special_tokens=False)["input_ids"]) == "12"


class _Guarded:
    """A tokenizer that notes when two threads use it at the same time: a fast tokenizer may then raise `Already
    borrowed`, or cut a text where another thread's settings say so."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.num_inside = self.most_inside = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return self._alone(self._tokenizer, *arguments, **more)

    def decode(self, *arguments: Any, **more: Any) -> Any:
        return self._alone(self._tokenizer.decode, *arguments, **more)

    def _alone(self, function: Any, *arguments: Any, **more: Any) -> Any:
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        time.sleep(0.01)  # for the others to come
        try:
            return function(*arguments, **more)
        finally:
            self.num_inside -= 1


def test_one_thread_at_a_time_uses_the_tokenizer() -> None:
    """A traced turn runs in the engine's thread while others of the actor encode their prompts and decode texts."""
    tokenizer: Any = _Guarded(tiny_tokenizer())
    chat = ChatTokenizer(tokenizer, "my-model")
    calls = [
        lambda: chat.encode([USER], {}, ""),
        lambda: chat.decode([5, 6]),
        lambda: chat.show([5, 6]),
        lambda: chat.turn_terminator,
    ]
    barrier = Barrier(len(calls))

    def call(number: int) -> Any:
        barrier.wait()
        return calls[number]()

    with ThreadPoolExecutor(len(calls)) as threads:
        together = list(threads.map(call, range(len(calls))))
    assert tokenizer.most_inside == 1
    plain = ChatTokenizer(tiny_tokenizer(), "my-model")
    assert together == [plain.encode([USER], {}, ""), plain.decode([5, 6]), plain.show([5, 6]), plain.turn_terminator]
