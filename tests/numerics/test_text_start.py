"""Without a chat template a prompt begins as the tokenizer begins a text: with BOS if it adds one, never with two."""

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.presets import CHAT_TEMPLATE, tiny_tokenizer

USER = {"role": "user", "content": "2 + 2?"}
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def tokenizer_of(form: str | None, template: str | None = None) -> PreTrainedTokenizerFast:
    """The byte tokenizer, which writes a text in this form: `$A` is the text."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    if form is not None:
        ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (PAD, START, END)}
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=form, pair=None, special_tokens=list(ids.items())
        )
    return tokenizer


def shown(tokenizer: PreTrainedTokenizerFast, content: str = "2 + 2?", suffix: str = "") -> str:
    chat = ChatTokenizer(tokenizer, "my-model")
    return chat.show(chat.encode([{"role": "user", "content": content}], {}, suffix))


@pytest.mark.parametrize(
    ("form", "start"),
    [
        (None, ""),
        ("$A", ""),
        (f"{START} $A", START),
        (f"{PAD} $A", PAD),
        (f"{START} $A {END}", START),  # the end belongs to a whole text, and a prompt goes on
        (f"$A {END}", ""),
        (f"{START} {PAD} $A", START + PAD),
        (f"{START} $A {PAD} {END}", START),
    ],
)
def test_a_prompt_begins_as_a_text_does(form: str | None, start: str) -> None:
    assert shown(tokenizer_of(form)) == f"{start}2 + 2?\n\n"
    assert shown(tokenizer_of(form), suffix="Answer:") == f"{start}2 + 2?\n\nAnswer:"


@pytest.mark.parametrize("form", [f"{START} $A", f"{START} {PAD} $A", f"{START} $A {END}"])
def test_a_prompt_that_begins_so_already_gets_no_second_one(form: str) -> None:
    start = "".join(form.partition(" $A")[0].split())
    assert shown(tokenizer_of(form), f"{start}2 + 2?") == f"{start}2 + 2?\n\n"
    assert shown(tokenizer_of(form), f"2 + {start}2?") == f"{start}2 + {start}2?\n\n"


@pytest.mark.parametrize("form", [f"{START} $A", f"{PAD} $A {END}", f"{START} {PAD} $A"])
@pytest.mark.parametrize("first", ["", PAD, START])
def test_with_a_template_the_template_decides(form: str, first: str) -> None:
    template = first + "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert shown(tokenizer_of(form, template)) == f"{first}2 + 2?"
    assert shown(tokenizer_of(form, CHAT_TEMPLATE)).count(START) == 2


def test_the_switch_of_the_tokenizer_counts() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.bos_token = START
    assert shown(tokenizer) == "2 + 2?\n\n"
    tokenizer.add_bos_token = True
    assert shown(tokenizer) == f"{START}2 + 2?\n\n"
