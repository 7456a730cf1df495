"""What a runtime has measured of its links and actors."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TransferCosts:
    """What a runtime has measured where it runs."""

    bytes_per_second: Mapping[tuple[str, str], float]  # by (source, reader): of the slowest link between their actors
    prefill_tokens_per_second: Mapping[str, float]  # by reader
