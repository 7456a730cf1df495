"""The types of fields whose value is one of several names."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator

from latentmas_ray.voting.rules import RuleName

DecisionRule = RuleName  # how one answer is made of several
# vote: only of the folders that `latentmas vote` writes; no run can be started with it.
Method = Literal["single", "text", "latent", "vote"]
RUN_METHODS = ("single", "text", "latent")


def _check_method(value: object) -> object:
    if value not in get_args(Method):
        raise ValueError(f"it must be {', '.join(map(repr, RUN_METHODS[:-1]))} or {RUN_METHODS[-1]!r}")
    return value


CheckedMethod = Annotated[Method, BeforeValidator(_check_method)]
MemoryName = Literal["matched", "deranged", "prompt-only", "latent-only", "latent-only+sink", "none", "corrupted"]
HintSource = Literal["own", "oracle"]
RuntimeName = Literal["ray", "local"]
EngineName = Literal["auto", "transformers", "vllm"]
SamplerName = Literal["counter", "engine"]
DTypeName = Literal["auto", "float32", "bfloat16"]
CodecName = Literal["none", "bf16", "int8", "int4"]
# Whose attention chooses the positions of a prompt that are handed over: of the prompt's own last tokens, of those and
# the thoughts, of the readers' prompts; or chance; or those that a reader can see, where every layer has a window. And
# whether all layers keep the same ones.
KeepBy = Literal["prompt", "thoughts", "reader", "random", "window"]
KeepLayers = Literal["shared", "own"]
GuardName = Literal["off", "warn", "drop", "text"]
TransferMode = Literal["kv", "recompute", "auto"]
PlacementName = Literal["auto", "pack", "spread", "colocate"]
ActorLink = Literal["same_gpu", "same_node", "cross_node"]  # from one actor to another
TransportName = Literal["auto", "object_store", "shared_memory", "tcp", "gloo", "nccl", "cuda_ipc", "nixl", "loopback"]
