"""The settings of `latentmas bench transfer`. Imports nothing heavy."""

from dataclasses import dataclass

from latentmas_ray.bench.setting_checks import check_address, check_dtype, check_plot_file, check_positive
from latentmas_ray.config import DEFAULT_LATENT_STEPS
from latentmas_ray.errors import ConfigError

# The first is the smallest possible segment; those that fit into memory are measured.
DEFAULT_TOKENS = (1, 64, 1024, 8192, 32768)


@dataclass(frozen=True, kw_only=True)
class TransferBenchSettings:
    """What to measure: segment sizes of one KV shape, and transports. Raises ConfigError for impossible values."""

    model: str = "qwen3-0.6b"  # a shape, tiny, a model folder or a hub id: its configuration is enough
    dtype: str = "bfloat16"
    tokens: tuple[int, ...] | None = None  # of each segment; None: those of `DEFAULT_TOKENS` that fit
    transports: tuple[str, ...] | None = None  # None: all that work here
    repeats: int = 5
    address: str | None = None
    end_to_end: bool = True
    prompt_tokens: int = 1000  # of the agent that sends its memory, end to end
    latent_steps: int = DEFAULT_LATENT_STEPS
    plot: str | None = None

    def __post_init__(self) -> None:
        check_positive(self, "repeats", "prompt_tokens", "latent_steps")
        if self.tokens is not None and (not self.tokens or min(self.tokens) < 1):
            given = ",".join(map(str, self.tokens))
            raise ConfigError("tokens", given, "it must be whole numbers of at least 1, as in 64,1024,8192")
        if self.transports is not None and not all(self.transports):
            raise ConfigError("transports", ",".join(self.transports), "it must be names, as in loopback,object_store")
        check_dtype(self.dtype)
        check_address(self.address)
        if self.plot is not None:
            check_plot_file(self.plot)
