"""The embedded models that the script trains: their shape, tokenizer and length of training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from examples.tiny_model.texts import CHATML, ROLE_TOKENS, TurnMarks
from examples.tiny_model.tokens import train_byte_level, train_marked
from latentmas_ray.models.presets import CHAT_TEMPLATE, untrained_model, wrap_tokenizer

_ROLE_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Design:
    """One embedded model. Two designs share the tasks, the curriculum and the first weights' rule.

    `first_fall`: the learning rate falls to its minimum at this step, and with more steps begins again at about half.
    """

    num_layers: int
    hidden_size: int
    mlp_size: int
    num_steps: int
    first_fall: int
    marks: TurnMarks
    template: str
    end_token: str
    pad_token: str
    train_tokenizer: Callable[[], Tokenizer]

    def first_model(self, tokenizer: Tokenizer) -> Qwen3ForCausalLM:
        """Return the architecture with random weights."""
        return untrained_model(
            tokenizer.get_vocab_size(),
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            mlp_size=self.mlp_size,
            end_id=_id_of(tokenizer, self.end_token),
            pad_id=_id_of(tokenizer, self.pad_token),
        )

    def wrap(self, tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
        """Return the tokenizer with its chat template."""
        return wrap_tokenizer(tokenizer, end=self.end_token, pad=self.pad_token, template=self.template)


def _id_of(tokenizer: Tokenizer, token: str) -> int:
    return tokenizer.get_vocab()[token]


DESIGNS: Mapping[str, Design] = {
    "tiny": Design(
        num_layers=4,
        hidden_size=256,
        mlp_size=512,
        num_steps=930,
        first_fall=730,
        marks=CHATML,
        template=CHAT_TEMPLATE,
        end_token="<|im_end|>",
        pad_token="<|endoftext|>",
        train_tokenizer=train_byte_level,
    ),
    # Of another width, depth, vocabulary and template, so that memory goes between models that share nothing but words.
    "small": Design(
        num_layers=3,
        hidden_size=224,
        mlp_size=512,
        num_steps=730,
        first_fall=730,
        marks=ROLE_TOKENS,
        template=_ROLE_TEMPLATE,
        end_token="<|end|>",
        pad_token="<|end|>",
        train_tokenizer=train_marked,
    ),
}
