"""Pretraining and fine-tuning: the same loop on another stream of documents."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Qwen3Config, Qwen3ForCausalLM

from examples.tiny_model.first_weights import set_first_weights
from examples.tiny_model.optimizing import MasterWeights
from examples.tiny_model.packing import Rows, pack_stream
from examples.training.front_loading.documents import MixStream, StreamState
from examples.training.front_loading.sizes import ModelSize, StageSize
from examples.training.studies.cell import CellRun

_WARM_UP = 20
_DECAY_FROM = 0.5  # share of the steps with a constant rate
_LEAST_RATE = 0.02


def new_model(size: ModelSize, vocab_size: int, seed: int) -> Any:
    """Return the model before training: a Qwen3 of a few layers with the first weights of the embedded models."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=size.hidden_size,
        intermediate_size=2 * size.hidden_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=size.hidden_size // 4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    set_first_weights(model)
    return model


def train_on(run: CellRun, model: Any, stream: MixStream, stage: StageSize) -> dict[str, Any]:
    """Train `model` in place on `stream` for a stage's steps; return the stream's figures and the last loss."""
    weights, step, loss = MasterWeights(model), 0, torch.zeros(())
    if run.resumed is not None:
        weights.load(run.resumed["weights"])
        step, stream.state = run.resumed["step"], StreamState(**run.resumed["stream"])
    while step < stage.num_steps:
        loss = loss_of(model, pack_stream(stream, stage.num_rows, stage.num_tokens))
        loss.backward()
        weights.step(stage.rate * rate_at(step, stage.num_steps))
        step += 1
        run.save(partial(_state, weights, step, stream.state))
    return {**stream.figures(), "loss": round(loss.item(), 4)}


def _state(weights: MasterWeights, step: int, stream: StreamState) -> dict[str, Any]:
    return {"weights": weights.state(), "step": step, "stream": asdict(stream)}


def rate_at(step: int, num_steps: int) -> float:
    """Return the share of the learning rate at a step: rises, is constant, and falls to nearly nothing."""
    left = (num_steps - step) / (num_steps * (1 - _DECAY_FROM))
    return min(1.0, (step + 1) / _WARM_UP, max(left, _LEAST_RATE))


def loss_of(model: Any, rows: Rows) -> Tensor:
    """Return the mean cross entropy of the targets."""
    hidden_BTE = model.model(
        input_ids=rows.ids_BT, position_ids=rows.positions_BT, attention_mask=rows.visible[:, None], use_cache=False
    ).last_hidden_state
    is_target = rows.targets_BT >= 0
    return cross_entropy(model.lm_head(hidden_BTE[is_target]).float(), rows.targets_BT[is_target])


def weights_of(model: Any) -> Mapping[str, Tensor]:
    """Return the model's weights, which later training does not change."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
