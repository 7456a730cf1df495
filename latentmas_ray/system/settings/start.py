"""What a run starts from, before its own flags or keywords."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """Fields of a configuration, valid together, and where they are from."""

    source: str  # for messages
    fields: Mapping[str, Any]
    left_out: Mapping[str, Any]  # what the source has besides, and a run does not take over
    overridden: Mapping[str, Any] = field(default_factory=dict)  # fields of the source that the run gives itself
    notes: tuple[str, ...] = ()  # what differs from the run that it was
