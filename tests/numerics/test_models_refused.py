"""Models that cannot collaborate are refused when they are wrapped, in one line that says why."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import MethodType
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    DeepseekV32Config,
    FalconConfig,
    Gemma3nTextConfig,
    GPT2Config,
    GPTJConfig,
    HunYuanDenseV1Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedModel,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.masking_utils import create_chunked_causal_mask

from latentmas_ray.errors import ModelError
from latentmas_ray.models import wrap
from latentmas_ray.models.presets import tiny_model, tiny_tokenizer
from tests.numerics.families import BASE, GQA, MHA

causal = AutoModelForCausalLM.from_config
LEARNED: dict[str, Any] = {"vocab_size": 259, "n_embd": 32, "n_layer": 2, "n_head": 4}
FALCON: dict[str, Any] = {"vocab_size": 259, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
BY_LAYER: dict[str, Any] = {
    **GQA,
    "num_hidden_layers": 4,
    "intermediate_size": [48] * 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "activation_sparsity_pattern": [0.0] * 4,
    "vocab_size_per_layer_input": 259,
    "hidden_size_per_layer_input": 8,
    "head_dim": 16,
}
BERT: dict[str, Any] = {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
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


def scaled_after_rotation() -> PreTrainedModel:
    """HunYuan normalises rotated keys; with trained weights no rotation moves them."""
    model = causal(HunYuanDenseV1Config(**GQA, head_dim=16))
    with torch.no_grad():
        model.model.layers[0].self_attn.key_layernorm.weight.copy_(torch.linspace(0.2, 3.0, 16))
    return model


def patched(forward: Callable[..., Any]) -> PreTrainedModel:
    """A Llama whose attention has another `forward`."""
    model = causal(LlamaConfig(**GQA))
    for layer in model.model.layers:
        layer.self_attn.forward = MethodType(partial(forward, layer.self_attn.forward), layer.self_attn)
    return model


def with_doubled_scores() -> PreTrainedModel:
    """Its own attention does what the engine's does not."""

    def forward(plain: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        own = self.scaling
        self.scaling = own * (40 if self.config._attn_implementation == "eager" else 1)
        result = plain(*args, **kwargs)
        self.scaling = own
        return result

    return patched(forward)


def without_interface() -> PreTrainedModel:
    def forward(plain: Callable[..., Any], self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return hidden_states.flip(1).cumsum(1).flip(1), None

    return patched(forward)


def with_own_mask() -> PreTrainedModel:
    def forward(plain: Callable[..., Any], self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        count = kwargs["hidden_states"].shape[1]
        mask = torch.ones(1, 1, count, count, dtype=torch.bool).tril().triu(-2)
        return plain(*args, attention_mask=mask, **kwargs)

    return patched(forward)


def with_full_experts() -> PreTrainedModel:
    """An expert that takes eleven tokens of a forward, and drops those after them, whosever they are."""
    model = causal(LlamaConfig(**GQA))
    for layer in model.model.layers:
        plain = layer.mlp.forward
        layer.mlp.forward = lambda x, plain=plain: plain(x) * (torch.arange(x.shape[1]) < 11)[None, :, None]
    return model


def in_chunks() -> PreTrainedModel:
    """Chunks that no field of the configuration gives away."""
    model = causal(LlamaConfig(**GQA))
    decoder = model.model
    plain = decoder.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        masks = import_module(type(decoder).__module__)
        own = masks.create_causal_mask
        model.config.attention_chunk_size = 16
        masks.create_causal_mask = create_chunked_causal_mask
        try:
            return plain(*args, **kwargs)
        finally:
            masks.create_causal_mask = own

    decoder.forward = forward
    return model


REFUSED: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "encoder-decoder": (
        lambda: T5ForConditionalGeneration(T5Config(vocab_size=259, d_model=32, d_ff=64, num_layers=2, num_heads=4)),
        "decoder-only",
    ),
    "learned positions": (lambda: causal(GPT2Config(**LEARNED)), "rotary positions"),
    "encoder": (lambda: BertLMHeadModel(BertConfig(**BERT, intermediate_size=64)), "rotary positions"),
    "GPT-J": (lambda: causal(GPTJConfig(**LEARNED, rotary_dim=4)), "rotary positions"),
    "keys that are scaled after their rotation": (
        lambda: scaled_after_rotation(),
        "layer 0 are moved by no rotation",
    ),
    "an unknown attention": (lambda: with_doubled_scores(), "no part that this package does not know"),
    "layers without a cache": (lambda: without_interface(), "must cache keys, as attention does"),
    "attention without the interface": (lambda: causal(FalconConfig(**FALCON)), "transformers' attention interface"),
    "embeddings by layer": (lambda: causal(Gemma3nTextConfig(**BY_LAYER)), "per-layer embeddings"),
    "a mask of its own": (lambda: with_own_mask(), "layer 0 makes its own"),
    "routing that sees its neighbours": (
        lambda: with_full_experts(),
        "a prompt in a batch must be the prompt alone",
    ),
    "chunks": (lambda: in_chunks(), "layer 0 sees chunks of 16 positions"),
    "state space": (
        lambda: causal(MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2)),
        "at least one of its layers must attend to tokens.*linear_attention",
    ),
    "an indexer": (lambda: causal(DeepseekV32Config(**SPARSE)), "indexed_attention, where an indexer chooses 4 tokens"),
    "no vocabulary projection": (lambda: AutoModel.from_config(Qwen3Config(**GQA, head_dim=16)), "projection"),
    "flex attention": (lambda: causal(LlamaConfig(**GQA), attn_implementation="flex_attention"), "sdpa"),
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


def answering(change: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    """A model whose forward changes the projection of its hidden states."""
    model = causal(LlamaConfig(**GQA))
    plain = type(model).forward

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = plain(self, *args, **kwargs)
        output.logits = change(output.logits)
        return output

    monkeypatch.setattr(type(model), "forward", changed)
    return model


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda logits: logits * torch.linspace(1, 2, logits.shape[-1]), "logits must be the projection"),
        (lambda logits: logits.abs(), "logits must be the projection"),
        (lambda logits: logits.index_fill(-1, torch.arange(3), torch.finfo(logits.dtype).min), "hides those of 3 tok"),
    ],
    ids=["a factor for each token", "no line", "hidden tokens"],
)
def test_a_model_that_answers_otherwise_than_its_projection_is_refused(
    change: Callable[[Tensor], Tensor], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = answering(change, monkeypatch)
    head = model.lm_head
    with pytest.raises(ModelError, match=reason):
        wrap(model, tiny_tokenizer(), "my-model")
    assert model.lm_head is head


@pytest.mark.parametrize("factor", [3.0, 0.37])
def test_a_factor_of_the_logits_is_found(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a configuration calls it."""
    lm = wrap(answering(lambda logits: logits * factor, monkeypatch), tiny_tokenizer(), "my-model")
    ids = torch.tensor([[5, 60, 7]])
    with torch.inference_mode():
        hidden_TE = lm.decoder(input_ids=ids, use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(lm.logits(hidden_TE), lm.model(ids, use_cache=False).logits[0], atol=1e-5, rtol=0)


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
