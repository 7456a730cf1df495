"""What a benchmark of the engine measures. Imports nothing heavy."""

from dataclasses import dataclass

from latentmas_ray.config import DEVICE_FORM, is_device
from latentmas_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EngineBenchSettings:
    """A chain of latent agents and one that decodes, on one model. Raises ConfigError for impossible values."""

    model: str = "qwen3-0.6b"  # a shape with random weights, tiny, a model folder or a hub id
    dtype: str = "bfloat16"
    device: str = "auto"
    batch_sizes: tuple[int, ...] = (1, 8)
    num_agents: int = 3  # latent ones
    latent_steps: int = 40
    prompt_tokens: int = 200  # of the longest prompt; the others of a batch are up to a quarter shorter
    max_new_tokens: int = 32
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("num_agents", "prompt_tokens", "max_new_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "it must be at least 1")
        if self.latent_steps < 0:
            raise ConfigError("latent_steps", self.latent_steps, "it must be at least 0")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ConfigError(
                "batch_size", ",".join(map(str, self.batch_sizes)), "it must be whole numbers of at least 1, as in 1,8"
            )
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ConfigError("dtype", self.dtype, "it must be 'auto', 'float32' or 'bfloat16'")
        if not is_device(self.device):
            raise ConfigError("device", self.device, DEVICE_FORM)
