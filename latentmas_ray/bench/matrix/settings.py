"""The settings of `latentmas bench transfer --pairs`. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal, get_args

from latentmas_ray.bench.setting_checks import check_address, check_dtype, check_plot_file, check_positive
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
        check_positive(self, "concurrent", "tokens", "repeats")
        check_dtype(self.dtype)
        check_address(self.address)
        if self.plot is not None:
            check_plot_file(self.plot)
