"""What our own engine knows about a model: vLLM's copy is compared with it.

The model is loaded once more, on the CPU, and dropped again.
"""

from dataclasses import dataclass

from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.load import load_model


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """The facts of a model as our own engine reads it."""

    spec: KVCacheSpec
    chat: ChatTokenizer
    max_positions: int | None


def make_reference(model: str, *, dtype: str, revision: str | None) -> Reference:
    """Load the model and check that it can collaborate. Raises ModelError."""
    lm = load_model(model, dtype=dtype, device="cpu", revision=revision)
    return Reference(spec=lm.spec, chat=lm.chat, max_positions=lm.max_positions)
