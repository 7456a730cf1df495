"""The user's own transformers model and tokenizer objects: used as they are, and sent to actors.

The object itself is never changed: the engine changes copies of its modules that share the weights.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from latentmas_ray.config import RuntimeName
from latentmas_ray.errors import ModelError
from latentmas_ray.memory.spec import WHOLE
from latentmas_ray.memory.wire import from_raw, raw_bytes
from latentmas_ray.models.compat import check_build, check_config, check_tokenizer, weights_revision, wrap
from latentmas_ray.models.devices import choose_device
from latentmas_ray.models.kv_spec import keeps_states, max_positions
from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.load import translated, warn_without_template
from latentmas_ray.parallel.ranks import ALONE, Ranks

ModelObject = PreTrainedModel
TokenizerObject = PreTrainedTokenizerBase
_GIVE_A_NAME = "give the name or the folder of the model instead"


class GivenModel:
    """A model object in place of a model's name. Its weights must not change while it is in use.

    Pickling copies the weights into out-of-band buffers, which the processes of a node can share.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Raises ModelError for objects of other types, and for a model that cannot collaborate."""
        if not isinstance(model, PreTrainedModel):
            expected = "it must be a name, a folder, or a causal language model of transformers"
            raise ModelError("model", _kind(model), expected)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            expected = "a model object needs its tokenizer (tokenizer=AutoTokenizer.from_pretrained(…))"
            raise ModelError("tokenizer", "none" if tokenizer is None else _kind(tokenizer), expected)
        self.name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
        self._model, self._tokenizer, self._was_sent = model, tokenizer, False
        with translated(self.name, "it must be a usual decoder-only model of transformers"):
            check_config(model.config, self.name)
            check_build(model, self.name)
            check_tokenizer(tokenizer, model, self.name)
        if any(hasattr(weight, "device_mesh") for weight in model.parameters()):
            expected = f"all its weights must be in this process, and it is divided over several; {_GIVE_A_NAME}"
            raise ModelError("model", self.name, expected)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        assert self._tokenizer is not None
        return self._tokenizer

    def check_run(
        self, *, runtime: RuntimeName = "local", tp: int = 1, dtype: str = "auto", revision: str | None = None
    ) -> None:
        """Raises ModelError unless a run with these settings can use it."""
        own = str(self._model.dtype).removeprefix("torch.")
        if dtype not in ("auto", own):
            raise ModelError("dtype", dtype, f"a model object keeps its own, which is {own}; use auto")
        if revision is not None:
            raise ModelError("revision", revision, "a model object has none; leave it out, or give the model's hub id")
        if tp > 1:
            raise ModelError("tp", str(tp), f"a model object cannot be divided: use 1, or {_GIVE_A_NAME}")
        if runtime == "ray":
            self._check_sendable()

    @cached_property
    def weights_revision(self) -> str:
        """The digest in its KV spec: equal to that of the same weights loaded from a folder, if the dtype is equal."""
        return weights_revision(self._model)

    def config_values(self) -> dict[str, Any]:
        """Return its configuration."""
        values: dict[str, Any] = self._model.config.to_dict()
        return values

    @property
    def max_positions(self) -> int | None:
        """The maximum number of positions; None if its configuration has none."""
        return max_positions(self._model.config)

    @property
    def keeps_states(self) -> bool:
        """Whether some of its layers keep states instead of keys, or next to them."""
        return keeps_states(self._model.config)

    def load(self, *, dtype: str = "auto", device: str = "auto", ranks: Ranks = ALONE) -> LanguageModel:
        """Return the checked model, which shares the weights. `device` auto keeps its device; in an actor it uses a GPU
        if there is one. Raises ModelError."""
        self.check_run(dtype=dtype, tp=1 if ranks.shard == WHOLE else ranks.shard.world_size)
        with translated(self.name, "it must be possible to use it"):
            model = _with_weights(self._model, lambda weight: Parameter(weight.detach(), requires_grad=False))
            if self._was_sent or device != "auto":
                model.to(choose_device(device))
        lm = wrap(model, self._tokenizer, self.name)
        warn_without_template(lm)
        return lm

    def _check_sendable(self) -> None:
        config, kinds = self._model.config, {type(weight) for weight in self._model.parameters()}
        is_quantised = getattr(config, "quantization_config", None) is not None or kinds != {Parameter}
        if is_quantised:
            reason = "a quantised one cannot be"
        elif any(hasattr(module, "_hf_hook") for module in self._model.modules()):
            reason = "one that is spread over devices cannot be"
        else:
            return
        raise ModelError(
            "model", self.name, f"it must be sent to actors, and {reason}: use runtime local, or {_GIVE_A_NAME}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_sendable()
        with translated(self.name, "it must be possible to send it to actors"):
            skeleton = _with_weights(
                self._model, lambda weight: Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
            )
            for module in skeleton.modules():
                for name, buffer in list(module.named_buffers(recurse=False)):
                    setattr(module, name, buffer.cpu())
        weights = [_pack(weight) for weight in self._model.parameters()]
        return _unpack, (skeleton, self._tokenizer, self.name, weights)


_Packed = tuple[np.ndarray, str, tuple[int, ...]]  # bytes, dtype, shape


def _pack(weight: Tensor) -> _Packed:
    return raw_bytes(weight.contiguous()), str(weight.dtype).removeprefix("torch."), tuple(weight.shape)


def _unpack(
    skeleton: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, weights: Sequence[_Packed]
) -> GivenModel:
    """Fill an empty model with weights; tied weights stay tied."""
    filled = {
        id(empty): Parameter(from_raw(raw).view(getattr(torch, dtype)).view(shape), requires_grad=False)
        for empty, (raw, dtype, shape) in zip(skeleton.parameters(), weights, strict=True)
    }
    for module in skeleton.modules():
        for key, empty in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(module, key, filled[id(empty)])
    given = GivenModel.__new__(GivenModel)
    given.name, given._model, given._tokenizer, given._was_sent = name, skeleton, tokenizer, True
    return given


def _with_weights(model: PreTrainedModel, replace: Callable[[Parameter], Parameter]) -> PreTrainedModel:
    """Copy all modules, with replaced weights and the same buffers; no weight is copied."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for weight in model.parameters():
        memo[id(weight)] = replace(weight) if type(weight) is Parameter else weight
    return copy.deepcopy(model, memo)


def _kind(thing: object) -> str:
    return f"a {type(thing).__module__}.{type(thing).__qualname__}" if not isinstance(thing, str) else thing
