"""How large the cache of an engine that writes texts may be, next to the other actors of its device. vLLM itself would
take a whole GPU."""

from latentmas_ray.errors import ModelError
from latentmas_ray.placement.memory_estimate import FIXED_BYTES
from latentmas_ray.placement.model_dims import ModelDims
from latentmas_ray.units import format_bytes

DEVICE_SHARE = 0.9  # of an actor's part of a GPU that vLLM may use; the rest holds memory that arrives
_HOST_SHARE = 1 / 8  # of an actor's part of a node's memory: latent agents and segments need more of it
_MIN_HOST_BYTES = 2**30
_FORWARD_TOKENS = 8192  # at most, in one step
_LOGITS_BYTES = 8  # float32 logits and a sorted copy, per question and vocabulary entry
_UNBOUNDED_POSITIONS = 32_768  # assumed for a model that names none


def wanted_bytes(model: ModelDims, *, max_running: int, max_positions: int | None) -> int:
    """Return the bytes of `max_running` questions of full length: a larger cache is of no use."""
    return max_running * (max_positions or _UNBOUNDED_POSITIONS) * model.bytes_per_token


def bytes_on_gpu(
    model: ModelDims, name: str, *, gpu_bytes: int, share: float, wanted: int, max_running: int, num_ranks: int = 1
) -> int:
    """Return the bytes of the paged cache of an actor with this share of a GPU, which holds the part of one of
    `num_ranks` ranks. Raises ModelError if none are left."""
    part = int(DEVICE_SHARE * share * gpu_bytes)
    activations = _FORWARD_TOKENS * (8 * model.hidden_size + 3 * model.mlp_size) * model.itemsize
    allowance = FIXED_BYTES + activations + max_running * model.vocab_size * _LOGITS_BYTES
    weights_bytes = model.weights_bytes() // num_ranks
    left = part - weights_bytes - allowance
    if left < model.bytes_per_token:
        expected = (
            f"its weights ({format_bytes(weights_bytes)}) and {format_bytes(allowance)} to compute with must "
            f"fit vLLM's part of the GPU, {format_bytes(part)}: use fewer actors for each GPU, or engine transformers"
        )
        raise ModelError("model", name, expected)
    return min(wanted, left)


def describe_bound(num_positions: int, *, cache_bytes: int, of_model: int | None) -> str:
    """Return what bounds a question to `num_positions`, and what to do about it, for `TextEngine.positions_bound`;
    empty if it is the model, which has `of_model` positions (None: any number)."""
    if of_model is not None and num_positions >= of_model:
        return ""
    model = "any number" if of_model is None else str(of_model)
    return (
        f"vLLM's cache of {format_bytes(cache_bytes)} holds {num_positions} (the model has {model}): use a shorter "
        "prompt or fewer latent steps, a larger part of the device for the actor (fewer actors for each, or a larger "
        "tp), or engine transformers"
    )


def bytes_on_host(*, host_bytes: int, share: float, wanted: int) -> int:
    """Return the bytes of the paged cache of an actor with this share of a node's cores."""
    return min(wanted, max(_MIN_HOST_BYTES, int(_HOST_SHARE * share * host_bytes)))
