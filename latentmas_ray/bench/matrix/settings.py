"""The settings of `latentmas bench transfer --pairs`. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal, get_args

from latentmas_ray.bench.plot_file import check_plot_file
from latentmas_ray.config.address import split_address
from latentmas_ray.errors import ConfigError

Pairs = Literal["nodes", "all"]
DEFAULT_MATRIX_TOKENS = 512  # 59 MB of Qwen3-0.6B: long enough that starting a transfer does not count


@dataclass(frozen=True, kw_only=True)
class MatrixSettings:
    """Which pairs to measure, and with what. Raises ConfigError for impossible values."""

    pairs: Pairs = "all"  # nodes: one pair for two nodes; all: the GPUs of a node and within each node, too
    concurrent: int = 4  # senders to one reader at the same time; of a small cluster all others
    model: str = "qwen3-0.6b"  # whose KV shape
    dtype: str = "bfloat16"
    tokens: int = DEFAULT_MATRIX_TOKENS  # of each segment
    transport: str = "auto"  # auto: what a run would use on each link
    repeats: int = 5
    address: str | None = None
    plot: str | None = None

    def __post_init__(self) -> None:
        if self.pairs not in get_args(Pairs):
            raise ConfigError("pairs", self.pairs, f"it must be {' or '.join(get_args(Pairs))}")
        for name in ("concurrent", "tokens", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "it must be at least 1")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ConfigError("dtype", self.dtype, "it must be 'auto', 'float32' or 'bfloat16'")
        if self.address is not None:
            try:
                split_address(self.address)
            except ValueError as error:
                raise ConfigError("address", self.address, str(error)) from None
        if self.plot is not None:
            check_plot_file(self.plot)
