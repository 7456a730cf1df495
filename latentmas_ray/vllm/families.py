"""Which models both engines read alike. Imports nothing of vLLM."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentmas_ray.memory import KVCacheSpec

# Full attention in every layer, and keys that RoPE rotates in the same way in transformers and in vLLM. A family that
# is not here may work: the engine compares a logit row with a plain prefill when it loads.
SAME_IN_VLLM = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})


def vllm_prospect(architecture: str) -> str:
    """Return what is known of agents that write with vLLM, for a model without a `vllm_obstacle`."""
    if architecture in SAME_IN_VLLM:
        return "agents can write with it: both engines read memory of this kind alike"
    return "agents may write with it (--engine vllm): when it is loaded, its logits and a memory are compared"


def vllm_obstacle(spec: "KVCacheSpec") -> str | None:
    """Return why vLLM cannot be given memory of a model; None if it can be tried."""
    if spec.has_states:
        return "some of its layers keep states, and vLLM is given keys and values alone; use transformers"
    if not spec.is_uniform:
        return "its layers do not all cache a key and a value of one shape, as memory is written; use transformers"
    if spec.has_windows:
        return "vLLM keeps only a window's keys in some layers, so a memory cannot be written there; use transformers"
    return None
