"""Models that cannot collaborate are refused when they are wrapped, in one line that says why."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    DeepseekV32Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from latentmas_ray.errors import ModelError
from latentmas_ray.models import wrap
from latentmas_ray.models.presets import tiny_model, tiny_tokenizer
from tests.numerics.families import BASE, GQA, MHA, gemma3

causal = AutoModelForCausalLM.from_config
LEARNED: dict[str, Any] = {"vocab_size": 259, "n_embd": 32, "n_layer": 2, "n_head": 4}
BERT: dict[str, Any] = {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LONG: dict[str, Any] = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
DYNAMIC: dict[str, Any] = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
SPARSE: dict[str, Any] = {
    **MHA,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "qk_nope_head_dim": 8,
    "first_k_dense_replace": 2,
    "index_topk": 4,
    "index_head_dim": 16,
    "index_n_heads": 2,
}
SOME_SLIDING: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
VISION: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}

REFUSED: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "encoder-decoder": (
        lambda: T5ForConditionalGeneration(T5Config(vocab_size=259, d_model=32, d_ff=64, num_layers=2, num_heads=4)),
        "decoder-only",
    ),
    "learned positions": (lambda: causal(GPT2Config(**LEARNED)), "rotary positions"),
    "encoder": (lambda: BertLMHeadModel(BertConfig(**BERT, intermediate_size=64)), "rotary positions"),
    "GPT-J": (lambda: causal(GPTJConfig(**LEARNED, rotary_dim=4)), "rotary positions"),
    "interleaved": (lambda: causal(CohereConfig(**GQA)), "movable by RoPE"),
    "dynamic": (lambda: causal(LlamaConfig(**GQA, rope_parameters=DYNAMIC)), "kind 'dynamic'"),
    "longrope": (lambda: causal(Phi3Config(**GQA, rope_parameters=LONG)), "kind 'longrope'"),
    "sliding window": (lambda: causal(MistralConfig(**GQA, sliding_window=16)), "sliding_window=16"),
    "some sliding layers": (lambda: causal(Qwen2Config(**MHA, **SOME_SLIDING)), "sliding_attention"),
    "Gemma 3 as it is": (lambda: causal(gemma3(layer_types=None)), "sliding_attention"),
    "state space": (
        lambda: causal(MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2)),
        "at least one of its layers must attend to tokens.*linear_attention",
    ),
    "an indexer": (lambda: causal(DeepseekV32Config(**SPARSE)), "indexed_attention, where an indexer chooses 4 tokens"),
    "images too": (
        lambda: Gemma3ForConditionalGeneration(
            Gemma3Config(text_config=gemma3().to_dict(), vision_config=VISION),
        ),
        "text-only model",
    ),
    "no vocabulary projection": (lambda: AutoModel.from_config(Qwen3Config(**GQA, head_dim=16)), "projection"),
    "eager attention": (lambda: causal(LlamaConfig(**GQA), attn_implementation="eager"), "sdpa"),
    "rounded frequencies": (lambda: causal(LlamaConfig(**GQA)).to(torch.bfloat16), "frequencies must be float32"),
    "double precision": (
        lambda: causal(LlamaConfig(**GQA), dtype=torch.float64),
        "dtype must be one of float32, bfloat16, float16",
    ),
    "offloaded": (
        lambda: cpu_offload(causal(LlamaConfig(**GQA)), execution_device=torch.device("cpu")),
        "21 are offloaded or empty, like model.embed_tokens",
    ),
    "too few embeddings": (lambda: causal(LlamaConfig(**{**GQA, "vocab_size": 20})), "tokenizer must fit"),
}


@pytest.mark.parametrize("make", [make for make, _ in REFUSED.values()], ids=REFUSED)
def test_the_reason_is_one_line(make: Callable[[], PreTrainedModel], request: pytest.FixtureRequest) -> None:
    reason = REFUSED[request.node.callspec.id][1]
    with pytest.raises(ModelError, match=reason) as caught:
        wrap(make(), tiny_tokenizer(), "my-model")
    line = str(caught.value)
    assert line.startswith("model: got 'my-model'; ")
    assert "\n" not in line
    assert len(line) < 320


def test_a_model_that_answers_otherwise_than_its_projection_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaling of the logits that this package does not know about."""
    model = causal(LlamaConfig(**GQA))
    head = model.lm_head
    plain = type(model).forward

    def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = plain(self, *args, **kwargs)
        output.logits = output.logits * 3
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    with pytest.raises(ModelError, match="logits must be the projection"):
        wrap(model, tiny_tokenizer(), "my-model")
    assert model.lm_head is head


def test_control_tokens_that_were_never_trained_do_not_matter() -> None:
    """What a model computes from them says nothing about what it does with text."""
    model = causal(LlamaConfig(**GQA))
    with torch.no_grad():
        model.get_input_embeddings().weight[:17] = torch.nan
    assert wrap(model, tiny_tokenizer(), "my-model").name == "my-model"


def test_wrapping_switches_training_off() -> None:
    model = causal(LlamaConfig(**BASE)).train()
    wrap(model, tiny_tokenizer(), "my-model")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_revision_names_the_weights() -> None:
    first, same, other = (wrap(tiny_model(torch.float32), tiny_tokenizer(), "tiny") for _ in range(3))
    assert first.spec == same.spec
    other.model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    changed = wrap(other.model, tiny_tokenizer(), "tiny")
    assert changed.spec.weights_revision != first.spec.weights_revision


def test_the_tiny_model_is_the_same_everywhere_and_changes_no_random_state() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = tiny_model(torch.float32)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(2)
    second = tiny_model(torch.float32)
    assert all(torch.equal(mine, other) for mine, other in zip(first.parameters(), second.parameters(), strict=True))
    assert 500_000 < sum(parameter.numel() for parameter in first.parameters()) < 1_500_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_tiny_model_keeps_its_frequencies_in_low_precision(dtype: torch.dtype) -> None:
    model = tiny_model(dtype)
    assert model.dtype == dtype
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert wrap(model, tiny_tokenizer(), "tiny").spec.torch_dtype == dtype
