"""The optimizers of the embedded model: float32 master weights of a model that computes in bfloat16."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

_MUON_RATE, _EMBED_RATE, _ADAM_RATE = 0.02, 0.02, 4e-3
_MAX_NORM = 1.0  # of all gradients together


class MasterWeights:
    """Trains a model in place: Muon for the matrices of the layers, AdamW for embeddings, the output matrix and norms.

    Sets the model's weights to bfloat16 and changes them at every `step`; `masters` are theirs in float32.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.masters: dict[str, Tensor] = {name: p.detach().float().clone() for name, p in model.named_parameters()}
        for p in model.parameters():
            p.data = p.data.bfloat16()
        hidden = [m for name, m in self.masters.items() if m.ndim == 2 and "layers" in name]
        embedded = [m for name, m in self.masters.items() if "embed" in name]
        others = [m for name, m in self.masters.items() if "lm_head" in name or m.ndim == 1]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(hidden, lr=_MUON_RATE, momentum=0.95, weight_decay=0.01),
            torch.optim.AdamW(embedded, lr=_EMBED_RATE, betas=(0.9, 0.95), weight_decay=0.0),
            torch.optim.AdamW(others, lr=_ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
        ]

    def step(self, rate: float, change_gradients: Callable[[Mapping[str, Tensor]], None] | None = None) -> None:
        """Take a step along the model's gradients, which are removed, with `rate` times the usual learning rates.

        `change_gradients` is given the gradients of the masters by name and may change them in place.
        """
        named = dict(self._model.named_parameters())
        gradients: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            gradients[name] = named[name].grad.float()
            master.grad = gradients[name]
            named[name].grad = None
        if change_gradients is not None:
            change_gradients(gradients)
        clip_grad_norm_(self.masters.values(), _MAX_NORM)
        for optimizer, base in zip(self._optimizers, (_MUON_RATE, _EMBED_RATE, _ADAM_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * rate
            optimizer.step()
        self.publish()

    def publish(self) -> None:
        """Copy the masters into the model."""
        named = dict(self._model.named_parameters())
        for name, master in self.masters.items():
            named[name].data.copy_(master)

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on: the tensors themselves, which later steps change."""
        return {"masters": self.masters, "optimizers": [optimizer.state_dict() for optimizer in self._optimizers]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        for name, master in self.masters.items():
            master.copy_(state["masters"][name])
        self.publish()
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
