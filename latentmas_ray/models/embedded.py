"""The embedded model: a small Qwen3 that was trained from scratch for the built-in tasks, shipped with the package.

`jobs/train_tiny.py` makes it; its model card is beside its weights.
"""

from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_EMBEDDING_STD, _HEAD_STD = 1.0, 0.02


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
    """The model before its first step.

    Embeddings are large beside what layers add, and layers begin by adding nothing: so tokens can be told apart from
    the first step on, and matching them is learned in a tenth of the steps that the usual beginning takes.
    """
    model = Qwen3ForCausalLM(embedded_config(vocab_size))
    model.model.embed_tokens.weight.data.normal_(0.0, _EMBEDDING_STD)
    model.lm_head.weight.data.normal_(0.0, _HEAD_STD)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    return model


def wrap_tokenizer(tokenizer: object) -> PreTrainedTokenizerFast:
    """A trained tokenizer with its special tokens and chat template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
