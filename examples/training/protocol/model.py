"""The embedded model while it is trained: its layers change, its embeddings stay, and names are drawn again.

Embeddings stay because the thought rule is made of them, and so that what is shipped is a difference in the layers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from examples.tiny_model.designs import DESIGNS
from examples.tiny_model.first_weights import draw_tokens
from examples.tiny_model.optimizing import MasterWeights
from examples.tiny_model.tokens import word_id
from latentmas_ray.models.names import EMBEDDED_FOLDER
from latentmas_ray.tasks.names import HELD_OUT_NAMES, TRAIN_NAMES

DESIGN = DESIGNS["tiny"]
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


class TrainedModel:
    """`tiny`, or what a cell made of it, with optimizers for its layers."""

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Load the shipped weights; `weights` of layers replace some of them."""
        self.tokenizer: Tokenizer = DESIGN.train_tokenizer()
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            EMBEDDED_FOLDER, dtype=torch.float32, trust_remote_code=False
        )
        if weights is not None:
            self.model.load_state_dict(dict(weights), strict=False)
        self.optimized = MasterWeights(self.model, lambda name: name not in EMBEDDINGS)
        words = (*TRAIN_NAMES, *HELD_OUT_NAMES)
        self._names = [word_id(self.tokenizer, word) for word in words]
        named = dict(self.model.named_parameters())
        self._own = {name: named[name].detach()[self._names].float() for name in EMBEDDINGS}

    def weights(self) -> dict[str, Tensor]:
        """Return the trained weights in float32: all but the embeddings."""
        return {name: tensor.clone() for name, tensor in self.optimized.masters.items()}

    @contextmanager
    def renamed(self, generator: torch.Generator) -> Iterator[None]:
        """Inside, every name has random embeddings, around the mean of the names: what is learned inside holds for
        names that no task of the training has."""
        named = dict(self.model.named_parameters())
        size = self._own[EMBEDDINGS[0]].shape[1]
        for name, drawn in zip(EMBEDDINGS, draw_tokens(len(self._names), size, generator), strict=True):
            mean_E = self._own[name].mean(0)
            named[name].data[self._names] = (mean_E + drawn - drawn.mean(0)).bfloat16()
        try:
            yield
        finally:
            for name in EMBEDDINGS:
                named[name].data[self._names] = self._own[name].bfloat16()
