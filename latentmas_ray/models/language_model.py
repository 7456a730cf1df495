"""One decoder-only transformers model, reduced to what the engine needs. The only way into transformers.

Dimensions: B rows, T tokens, E hidden size, V vocabulary.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from latentmas_ray.errors import ModelError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.memory.spec import DTYPES
from latentmas_ray.memory.wire import raw_bytes
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.rope import rope_spec


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model and its tokenizer. Made by `models.load_model` or, from one's own objects, by `wrap`."""

    name: str
    model: PreTrainedModel
    chat: ChatTokenizer
    spec: KVCacheSpec

    @cached_property
    def decoder(self) -> nn.Module:
        """The model without its vocabulary projection."""
        decoder: nn.Module = self.model.get_decoder()
        return decoder

    @property
    def device(self) -> torch.device:
        """Where input embeddings go in."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def max_positions(self) -> int | None:
        """Positions that the model was made for; None where the configuration does not say."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return int(limit) if limit else None

    @property
    def is_tied(self) -> bool:
        """Whether input and output embeddings are the same weights (then W_a ≈ I)."""
        output = self.model.get_output_embeddings()
        return bool(output.weight.data_ptr() == self.model.get_input_embeddings().weight.data_ptr())

    @cached_property
    def layer_devices(self) -> list[torch.device]:
        """The device of each decoder layer; several where accelerate spread the model."""
        placed: dict[int, torch.device] = {}
        for name, parameter in self.decoder.named_parameters():
            numbers = [int(part) for part in name.split(".") if part.isdigit()]
            if numbers and parameter.device.type != "meta":
                placed.setdefault(numbers[0], parameter.device)
        return [placed.get(layer, self.device) for layer in range(self.spec.num_layers)]

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Input embeddings [B, T, E] of token ids, scaled as the model scales them."""
        embeds: Tensor = self.model.get_input_embeddings()(ids_BT.to(self.device))
        return embeds

    def input_embeddings(self) -> Tensor:
        """E_in [V, E], as the model feeds it to its first layer."""
        return self.embed(torch.arange(self.model.get_input_embeddings().weight.shape[0]))

    def output_embeddings(self) -> Tensor:
        """E_out [V, E]."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def hidden_states(self, embeds_BTE: Tensor, positions_BT: Tensor, mask: Tensor, cache: BatchCache) -> Tensor:
        """One forward over new inputs: last hidden states after the final norm, [B, T, E]; fills `cache`.

        `mask` is bool [B, 1, T, S], true where a query may look. No vocabulary projection.
        """
        output = self.decoder(
            inputs_embeds=embeds_BTE,
            attention_mask=mask,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden_BE: Tensor) -> Tensor:
        """The vocabulary projection, fp32 [B, V], with the scaling or soft cap that the configuration asks for."""
        head = self.model.get_output_embeddings()
        logits: Tensor = head(hidden_BE.to(head.weight.device)).float()
        config = self.model.config
        if getattr(config, "logits_scaling", None):
            logits = logits / config.logits_scaling
        if getattr(config, "logit_scale", None):
            logits = logits * config.logit_scale
        cap = getattr(config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> LanguageModel:
    """Your own transformers objects as a `LanguageModel`. Raises ModelError for a model that cannot collaborate."""
    config = model.config
    _check_kind(config, name)
    model.eval().requires_grad_(False)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    spec = KVCacheSpec(
        architecture=type(model).__name__,
        num_layers=config.num_hidden_layers,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=head_dim,
        hidden_size=config.hidden_size,
        dtype=_dtype_name(model, name),
        rope=rope_spec(config, name),
        weights_revision=weights_revision(model),
    )
    return LanguageModel(name, model, ChatTokenizer(tokenizer, name, _stop_ids(model)), spec)


def weights_revision(model: nn.Module) -> str:
    """A digest of all weights: the same for the same numbers, wherever they were loaded from."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        if tensor.device.type != "meta":  # weights that accelerate has put on disk are told by the others
            digest.update(raw_bytes(tensor.contiguous()).data)
    return digest.hexdigest()


def _check_kind(config: Any, name: str) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError("model", name, "it must be decoder-only; this is an encoder-decoder")
    kinds = getattr(config, "layer_types", None)
    other = sorted({kind for kind in kinds if kind != "full_attention"}) if kinds else []
    if not kinds and getattr(config, "sliding_window", None):
        other = [f"sliding_window={config.sliding_window}"]
    if other:
        raise ModelError(
            "model", name, f"all layers must attend to everything before them; this one has {', '.join(other)}"
        )


def _dtype_name(model: PreTrainedModel, name: str) -> str:
    for text, dtype in DTYPES.items():
        if model.dtype == dtype:
            return text
    raise ModelError("model", name, f"its dtype must be one of {', '.join(DTYPES)}; it is {model.dtype}")


def _stop_ids(model: PreTrainedModel) -> list[int]:
    """End tokens of the generation configuration; some models name several."""
    generation = getattr(model, "generation_config", None)
    eos = getattr(generation, "eos_token_id", None)
    if eos is None:
        eos = getattr(model.config, "eos_token_id", None)
    if eos is None:
        return []
    return [int(eos)] if isinstance(eos, int) else [int(one) for one in eos]
