"""The types of fields whose value is one of several names."""

from typing import Literal

Method = Literal["single", "text", "latent"]
MemoryName = Literal["matched", "deranged", "prompt-only", "latent-only", "none", "corrupted"]
RuntimeName = Literal["ray", "local"]
EngineName = Literal["auto", "transformers", "vllm"]
SamplerName = Literal["counter", "engine"]
DTypeName = Literal["auto", "float32", "bfloat16"]
CodecName = Literal["none", "bf16", "int8", "int4"]
GuardName = Literal["off", "warn", "drop", "text"]
TransferMode = Literal["kv", "recompute", "auto"]
PlacementName = Literal["auto", "pack", "spread", "colocate"]
ActorLink = Literal["same_gpu", "same_node", "cross_node"]  # from one actor to another
TransportName = Literal["auto", "object_store", "shared_memory", "tcp", "gloo", "nccl", "cuda_ipc", "nixl", "loopback"]
