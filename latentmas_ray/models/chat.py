"""Prompts to token ids by the tokenizer's own chat template, and token ids back to text."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from latentmas_ray.errors import ModelError

# For base models, which have no chat template: the messages as paragraphs.
PLAIN_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n\n{% endfor %}"


class ChatTokenizer:
    """The tokenizer of one model, used the one way this package uses it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str, extra_stop_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.name = name
        eos = tokenizer.eos_token_id
        self.stop_ids = frozenset(extra_stop_ids) | (frozenset() if eos is None else {eos})

    def encode(self, messages: Sequence[Mapping[str, str]], template: Mapping[str, Any], suffix: str) -> list[int]:
        """The prompt's token ids: the chat template with `add_generation_prompt`, then `suffix`; nothing added.

        Where the template knows no system role, the system message opens the user's. Raises ModelError if the
        template refuses the messages or the result is empty.
        """
        try:
            text = self._render(messages, template)
        except (TemplateError, ValueError, TypeError) as error:
            try:
                text = self._render(_without_system_role(messages), template)
            except (TemplateError, ValueError, TypeError):
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
        return str(self.tokenizer.apply_chat_template([dict(message) for message in messages], **ours, **template))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of decoded ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def show(self, ids: Sequence[int]) -> str:
        """Text of any ids, special tokens as they are written; empty for ids that the tokenizer does not know."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @cached_property
    def turn_terminator(self) -> list[int]:
        """What the chat template writes after an assistant's message: found by rendering one.

        Falls back to the end-of-sequence token where the template cannot show it.
        """
        marker = "\u2603marker\u2603"
        eos = [] if self.tokenizer.eos_token_id is None else [int(self.tokenizer.eos_token_id)]
        if not self.tokenizer.chat_template:
            return eos
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": marker}]
        try:
            text = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except (TemplateError, ValueError, TypeError):
            return eos
        _, found, tail = text.rpartition(marker)
        return list(self.tokenizer(tail, add_special_tokens=False)["input_ids"]) if found and tail else eos


def _without_system_role(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The same messages with a leading system message as the first paragraph of the next one."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return list(messages)
    first, second, *rest = messages
    return [{**second, "content": f"{first['content']}\n\n{second['content']}"}, *rest]
