"""The keywords of `LatentMAS`, for editors and type checkers.

They are the fields of `RunConfig`; a test checks that names and types agree.
"""

from typing import Literal, TypedDict

from latentmas_ray.config import (
    ActorLink,
    CodecName,
    DecisionRule,
    DTypeName,
    EngineName,
    GuardName,
    HintSource,
    KeepBy,
    KeepLayers,
    MemoryName,
    Method,
    PlacementName,
    RuntimeName,
    SamplerName,
    TransferMode,
    TransportName,
)


class RunFields(TypedDict, total=False):
    """The fields of `RunConfig`, which has their defaults and descriptions."""

    task: str
    method: Method
    memory: MemoryName
    latent_steps: int | str
    thoughts: str
    realign: bool  # on: thoughts="realign", off: thoughts="identity"
    batch_size: int
    dtype: DTypeName
    device: str
    temperature: float
    top_p: float
    max_new_tokens: int | None
    seed: int
    samples: int
    decides: DecisionRule | None
    decide_accuracies: str | None
    abstractions: int | None
    hints: HintSource
    engine: EngineName
    decode_batch: int | None
    sampler: SamplerName
    limit: int | None
    replicas: int | dict[str, int] | Literal["auto"]
    max_replicas: int | dict[str, int] | Literal["auto"] | None
    rebalance: bool
    min_replicas: int | dict[str, int] | None
    hardware: str | None
    placement: PlacementName
    drivers: int
    tp: int
    threads: int | None
    transport: TransportName | dict[ActorLink, TransportName]
    transfer: TransferMode
    codec: CodecName
    keep: float
    keep_by: KeepBy
    keep_layers: KeepLayers
    overlap: bool
    guard: GuardName
    trace: int
    runtime: RuntimeName
    address: str | None
    memory_in_flight: str
    start_timeout: float
    turn_timeout: float
    detach: float | None
    revision: str | None
    models: dict[str, str]
    translation: str | None
    save_memory: str | None
    output: str | None
    resume: bool
    unsafe_programs: bool
    otel: bool
