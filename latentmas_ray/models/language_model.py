"""One decoder-only transformers model with the operations that the engine uses.

Dimensions: B rows, T tokens, E hidden size, V vocabulary.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.models.attention import packed
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.kv_spec import PositionLimit, position_limit, scales_by_length, text_config
from latentmas_ray.parallel.ranks import ALONE, Ranks, own_part, whole


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The model without its vocabulary projection."""
    decoder: nn.Module = model.get_decoder()
    if isinstance(decoder, nn.Linear):  # ModernBERT calls the projection its decoder
        decoder = model.base_model
    if decoder is model:  # Llama 4 without images has itself
        decoder = next(child for child in model.children() if isinstance(child, PreTrainedModel))
    return decoder


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model and its tokenizer; created by `models.load_model`, or by `models.wrap` from existing objects.

    With tensor parallelism it is one shard. `embed`, `hidden_states`, `logits` and the embedding matrices are then
    collective steps, which may raise ShardError and return the whole result on all ranks.
    """

    name: str
    model: PreTrainedModel
    chat: ChatTokenizer
    spec: KVCacheSpec
    ranks: Ranks = ALONE
    # Whether a layer's state is only continued by one token after another, as in transformers' Mamba.
    continues_singly: bool = False
    # What the model does to the projection of a hidden state: c · tanh(f · x / c), or f · x without a cap c.
    logit_factor: float = 1.0
    logit_cap: float | None = None
    # What the model multiplies the embeddings of token ids with, and not those that it is given.
    embed_factor: float = 1.0

    @cached_property
    def decoder(self) -> nn.Module:
        """The model without its vocabulary projection."""
        return decoder_of(self.model)

    @property
    def device(self) -> torch.device:
        """The device of the input embeddings."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def device_name(self) -> str:
        """The device for the log: `cpu`, or the name of the GPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @property
    def max_positions(self) -> int | None:
        """The maximum number of positions; None if there is no limit."""
        limit = self.position_limit
        return None if limit is None else limit.num_positions

    @property
    def positions_bound(self) -> str:
        """Why it has only `max_positions`, and what to do about it, in one line; empty where it is made for no more."""
        limit = self.position_limit
        if limit is None or not limit.reason:
            return ""
        remedies = "fewer latent steps, a shorter prompt, fewer agents before it or another model"
        return f"model {self.name} can use {limit.num_positions}: {limit.reason}; use {remedies}"

    @cached_property
    def position_limit(self) -> PositionLimit | None:
        """The maximum number of positions and its reason; None if there is no limit."""
        return position_limit(text_config(self.model.config))

    @cached_property
    def _scales_by_length(self) -> bool:
        return scales_by_length(text_config(self.model.config))

    @property
    def is_tied(self) -> bool:
        """Whether input and output embeddings share their weights (then W_a ≈ I)."""
        both = (self.model.get_input_embeddings().weight, self.model.get_output_embeddings().weight)
        first, second = (own_part(weight).data_ptr() for weight in both)
        return first == second

    @cached_property
    def layer_devices(self) -> list[torch.device]:
        """The device of each decoder layer; they differ if the model is spread over GPUs."""
        placed: dict[int, torch.device] = {}
        for name, parameter in self.decoder.named_parameters():
            numbers = [int(part) for part in name.split(".") if part.isdigit()]
            if numbers:
                placed.setdefault(numbers[0], parameter.device)
        return [placed.get(layer, self.device) for layer in range(self.spec.num_layers)]

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Input embeddings [B, T, E] of token ids, scaled as the model scales them."""
        with self.ranks.collective():
            embeds: Tensor = self.model.get_input_embeddings()(ids_BT.to(self.device))
        return embeds if self.embed_factor == 1.0 else embeds * self.embed_factor

    def input_embeddings(self) -> Tensor:
        """E_in [V, E], as the model feeds it to its first layer."""
        return self.embed(torch.arange(self.num_embeddings))

    @property
    def num_embeddings(self) -> int:
        """V, the rows of E_in."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def output_embeddings(self) -> Tensor:
        """E_out [V, E]."""
        with self.ranks.collective():
            return whole(self.model.get_output_embeddings().weight)

    def hidden_states(self, embeds_NE: Tensor, positions_N: Tensor, cache: BatchCache) -> Tensor:
        """One forward over the inputs that `cache.begin_step` prepared, one row after another; fills `cache`.

        Returns the last hidden states after the final norm, [N, E]. No vocabulary projection.
        """
        if self.spec.has_states:
            return self._by_call(embeds_NE, positions_N, cache)
        if self._scales_by_length:
            cache.packing.seen = positions_N - torch.arange(len(positions_N), device=positions_N.device)
        with self.ranks.collective(), packed(cache.packing):
            output = self.decoder(
                inputs_embeds=embeds_NE[None],
                attention_mask=self._no_mask,
                position_ids=positions_N[None],
                past_key_values=cache,
                use_cache=True,
            )
        hidden_NE: Tensor = output.last_hidden_state[0]
        return hidden_NE

    def _by_call(self, embeds_NE: Tensor, positions_N: Tensor, cache: BatchCache) -> Tensor:
        """Like `hidden_states` where layers keep states: one forward for all rows with one token each, and one for each
        other row, so that no state sees another row's tokens."""
        hidden_NE = torch.empty_like(embeds_NE, device=self.device)
        for call in cache.packing.calls:
            is_split = self.continues_singly and call.count > 1 and call.starts[0] > 0
            for one in call.single_tokens() if is_split else [call]:
                shape = (one.num_rows, one.count)
                packing = cache.begin_call(one)
                with self.ranks.collective(), packed(packing):
                    output = self.decoder(
                        inputs_embeds=embeds_NE[one.tokens].unflatten(0, shape),
                        attention_mask=self._no_mask,
                        position_ids=positions_N[one.tokens].unflatten(0, shape),
                        past_key_values=cache,
                        use_cache=True,
                    )
                hidden_NE[one.tokens] = output.last_hidden_state.flatten(0, 1).to(hidden_NE.device)
        return hidden_NE

    @cached_property
    def _no_mask(self) -> Tensor:
        """A dummy mask that stops transformers from building one; the engine's attention uses the packing."""
        return torch.zeros(1, 1, 1, 1, dtype=self.spec.torch_dtype, device=self.device)

    def logits(self, hidden_BE: Tensor) -> Tensor:
        """The vocabulary projection, fp32 [B, V], with the model's scaling and soft cap."""
        head = self.model.get_output_embeddings()
        with self.ranks.collective():
            logits: Tensor = head(hidden_BE.to(head.weight.device)).float()
        if self.logit_factor != 1.0:
            logits = logits * self.logit_factor
        cap = self.logit_cap
        return torch.tanh(logits / cap) * cap if cap else logits
