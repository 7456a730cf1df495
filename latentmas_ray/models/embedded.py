"""The embedded model: a small Qwen3 that was trained from scratch for the built-in tasks, shipped with the package.

`examples/tiny_model` trains it; its model card is next to its weights.
"""

from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def embedded_config(vocab_size: int) -> Qwen3Config:
    """Its shape: 2.8M parameters with a vocabulary of 800."""
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=32_768,
        tie_word_embeddings=False,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
        dtype="float32",
    )


def untrained_model(vocab_size: int) -> Qwen3ForCausalLM:
    """A model of this shape with random weights."""
    return Qwen3ForCausalLM(embedded_config(vocab_size))


def wrap_tokenizer(tokenizer: object) -> PreTrainedTokenizerFast:
    """A trained tokenizer with its special tokens and chat template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
