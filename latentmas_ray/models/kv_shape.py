"""What a model's working memory looks like, told by its configuration alone: no weights are loaded."""

from transformers import PretrainedConfig

from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.memory.layer_spec import DTYPES
from latentmas_ray.models.load import load_config, load_model
from latentmas_ray.models.presets import SHAPES, shape_config
from latentmas_ray.models.rope import rope_spec

# Nobody reads such memory with a model, so no weights are named.
_NO_WEIGHTS = "shape alone"


def kv_shape(name: str, *, dtype: str = "auto") -> KVCacheSpec:
    """The spec of one of `SHAPES`, of `tiny`, or of a model folder or hub id; `dtype` auto keeps the model's own.

    Raises ModelError.
    """
    if name == "tiny":
        return load_model(name, dtype=dtype, device="cpu").spec
    if name in SHAPES:
        return _spec(shape_config(name, dtype="bfloat16" if dtype == "auto" else dtype), name, dtype)
    return _spec(load_config(name), name, dtype)


def _spec(config: PretrainedConfig, name: str, dtype: str) -> KVCacheSpec:
    own = next((text for text, kind in DTYPES.items() if kind == config.dtype), "bfloat16")
    return KVCacheSpec.uniform(
        architecture=(getattr(config, "architectures", None) or [type(config).__name__])[0],
        num_layers=config.num_hidden_layers,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        hidden_size=config.hidden_size,
        dtype=own if dtype == "auto" else dtype,
        rope=rope_spec(config, name),
        weights_revision=_NO_WEIGHTS,
    )
