"""The settings of `latentmas bench serve`. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import TypeVar

from latentmas_ray.bench.setting_checks import check_plot_file, check_positive
from latentmas_ray.config import EMBEDDED_MODEL
from latentmas_ray.config.address import check_base_url
from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home

MAX_CONCURRENCY = 4096

_T = TypeVar("_T")


def _flag(default: _T, metavar: str, text: str) -> _T:
    """A field that is a flag, with what `--help` says of it."""
    value: _T = field(default=default, metadata={"metavar": metavar, "help": text})
    return value


@dataclass(frozen=True, kw_only=True)
class ServeBenchSettings:
    """What is asked of which server, and how fast. Raises ConfigError for impossible values."""

    url: str | None = _flag(
        None, "URL", "of a running server, as in http://127.0.0.1:8000/v1; without it one is started and ended"
    )
    model: str = _flag(EMBEDDED_MODEL, "tiny|FOLDER|HUB_ID", "of the server that is started")
    topology: str = _flag("sequential", "NAME|FILE.yaml", "of the server that is started")
    latent_steps: int | None = _flag(None, "N", "of each latent agent of the server that is started")
    models: tuple[str, ...] | None = _flag(None, "NAME,…", "as /v1/models lists them (default: all that it lists)")
    concurrency: tuple[int, ...] = _flag(
        (1, 16, 64), "C,C,…|none", "closed loop: so many clients, each of which asks again once it has its answer"
    )
    rates: tuple[float, ...] = _flag(
        (), "R,R,…|none", "open loop: requests a second that come whether others are done or not (Poisson)"
    )
    requests: int = _flag(64, "N", "of each model under each load")
    task: str = _flag("chain", "NAME|FILE", "whose questions are asked")
    max_tokens: int = _flag(64, "N", "of an answer")
    seed: int = _flag(42, "S", "of the arrivals of an open loop")
    timeout: float = _flag(600.0, "SECONDS", "after which a request is given up, which counts as an error")
    first_within: float | None = _flag(None, "SECONDS", "goodput: the time to the first token may take so long")
    answer_within: float | None = _flag(None, "SECONDS", "goodput: the whole answer may take so long")
    soak: float | None = _flag(
        None, "MINUTES", "ask all models in turn for so long, with the most clients, and watch the server's memory"
    )
    output: str | None = _flag(None, "DIR", "folder for figures.json and figures.txt")
    plot: str | None = _flag(None, "FILE.png", "draw times over load, and memory over time")

    def __post_init__(self) -> None:
        check_positive(self, "requests", "max_tokens", *(["latent_steps"] if self.latent_steps is not None else []))
        for name in ("timeout", "first_within", "answer_within", "soak"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(name, value, "it must be above 0")
        self._check_loads()
        if self.url is not None:
            check_base_url("url", self.url)
        if self.models is not None and not all(self.models):
            raise ConfigError("models", ",".join(self.models), "it must be names, as in latentmas/sequential")
        if not self.task:
            raise ConfigError("task", self.task, "it must be a task or a file of questions")
        if self.output is not None:
            expand_home("output", self.output)
        if self.plot is not None:
            check_plot_file(self.plot)

    def _check_loads(self) -> None:
        if any(not 1 <= count <= MAX_CONCURRENCY for count in self.concurrency):
            given = ",".join(map(str, self.concurrency))
            expected = f"it must be whole numbers from 1 to {MAX_CONCURRENCY}, as in 1,16,64, or none"
            raise ConfigError("concurrency", given, expected)
        if any(not 0 < rate < float("inf") for rate in self.rates):
            raise ConfigError(
                "rates", ",".join(map(str, self.rates)), "it must be numbers above 0, as in 0.5,2, or none"
            )
        if not self.concurrency and not self.rates and self.soak is None:
            raise ConfigError("concurrency", "none", "without rates and soak, too, nothing is left")
        if self.concurrency and self.requests < max(self.concurrency):
            most = max(self.concurrency)
            raise ConfigError("requests", self.requests, f"it must be at least {most}, the largest concurrency")
