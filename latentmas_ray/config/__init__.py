"""The configuration of a run: its parts, `RunConfig`, and renamed fields. Imports neither torch nor ray."""

from latentmas_ray.config.choices import (
    CodecName,
    DTypeName,
    GuardName,
    MemoryName,
    Method,
    PlacementName,
    RuntimeName,
    TransferMode,
    TransportName,
)
from latentmas_ray.config.parts import (
    EMBEDDED_MODEL,
    MAX_NEW_TOKENS,
    MethodConfig,
    ModelConfig,
    OutputConfig,
    PlacementConfig,
    SamplingConfig,
    TaskConfig,
    TransferConfig,
)
from latentmas_ray.config.renamed import current_fields, current_transfer
from latentmas_ray.config.run import RunConfig, make_config, stored_fields
from latentmas_ray.config.unused import RunSetting, unused_settings, warn_of_unused
from latentmas_ray.config.values import (
    DEVICE_FORM,
    MAX_REPLICAS,
    is_device,
    is_url,
    parse_replicas,
    replicas_by_agent,
)

__all__ = [
    "DEVICE_FORM",
    "EMBEDDED_MODEL",
    "MAX_NEW_TOKENS",
    "MAX_REPLICAS",
    "CodecName",
    "DTypeName",
    "GuardName",
    "MemoryName",
    "Method",
    "MethodConfig",
    "ModelConfig",
    "OutputConfig",
    "PlacementConfig",
    "PlacementName",
    "RunConfig",
    "RunSetting",
    "RuntimeName",
    "SamplingConfig",
    "TaskConfig",
    "TransferConfig",
    "TransferMode",
    "TransportName",
    "current_fields",
    "current_transfer",
    "is_device",
    "is_url",
    "make_config",
    "parse_replicas",
    "replicas_by_agent",
    "stored_fields",
    "unused_settings",
    "warn_of_unused",
]
