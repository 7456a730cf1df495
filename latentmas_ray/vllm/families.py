"""The families of models that both engines read alike. Imports nothing of vLLM."""

# Full attention in every layer, and keys that RoPE rotates in the same way in transformers and in vLLM. A family that
# is not here may work: the engine compares a logit row with a plain prefill when it loads.
SAME_IN_VLLM = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
