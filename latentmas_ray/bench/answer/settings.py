"""The settings of `latentmas bench answer`. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import TypeVar

from latentmas_ray.bench.setting_checks import DTYPES, check_address, check_positive
from latentmas_ray.config import DEFAULT_LATENT_STEPS, DEVICE_FORM, EMBEDDED_MODEL, is_device
from latentmas_ray.config.thoughts import parse_thoughts
from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home

ENGINES = ("static", "continuous", "vllm")
METHODS = ("single", "text", "latent")
ANSWER_ENGINES = ("auto", "transformers", "vllm")
NOTHING = "none"  # in place of names: this part is not measured

_T = TypeVar("_T")


def _flag(default: _T, metavar: str, text: str) -> _T:
    """A field that is a flag, with what `--help` says of it."""
    value: _T = field(default=default, metadata={"metavar": metavar, "help": text})
    return value


@dataclass(frozen=True, kw_only=True)
class AnswerBenchSettings:
    """What to measure: engines on texts of seeded lengths, and methods on the questions of tasks.

    Raises ConfigError for impossible values.
    """

    model: str = _flag(EMBEDDED_MODEL, "tiny|FOLDER|HUB_ID|SHAPE", "a SHAPE has random weights: engines alone")
    dtype: str = _flag("auto", "auto|float32|bfloat16", "auto: the one in which the weights are stored")
    device: str = _flag("auto", "auto|cpu|cuda[:N]", "auto uses a GPU if there is one")
    engines: tuple[str, ...] | None = _flag(
        None, "NAME,…|none", "static, continuous, vllm (default: all that are installed)"
    )
    questions: int = _flag(32, "N", "of the engines")
    batch_size: int = _flag(8, "B", "questions that an engine writes at the same time")
    prompt_tokens: int = _flag(64, "N", "of the engines' questions")
    min_new_tokens: int = _flag(8, "N", "lengths of texts are drawn evenly between this and the next")
    max_new_tokens: int = _flag(512, "N", "of the longest possible text")
    seed: int = _flag(42, "S", "of the engines' prompts and lengths")
    repeats: int = _flag(3, "N", "rounds of the engines")
    threads: int | None = _flag(
        None, "N", "of each engine on a CPU (default: LATENTMAS_TORCH_THREADS, or one for each core)"
    )
    methods: tuple[str, ...] = _flag(METHODS, "NAME,…|none", "the methods to measure")
    answer_engine: str = _flag(
        "auto", "auto|transformers|vllm", "of every agent that writes text; auto: vLLM if it is installed"
    )
    tasks: tuple[str, ...] = _flag(("notes", "chain"), "NAME|FILE,…", "whose questions the methods answer")
    limit: int = _flag(64, "N", "questions of each task")
    concurrency: tuple[int, ...] = _flag((1, 8, 32), "C,C,…", "questions that an agent computes at the same time")
    topology: str = _flag("sequential", "NAME|FILE.yaml", "of the methods")
    latent_steps: int = _flag(DEFAULT_LATENT_STEPS, "N", "of each latent agent")
    thoughts: str = _flag("realign", "RULE", "of latent agents, as in latentmas eval")
    keep: float = _flag(1.0, "SHARE", "of the positions of each prompt that a latent agent hands over")
    runtime: str = _flag("ray", "ray|local", "of the methods")
    address: str | None = _flag(
        None, "ADDR", "HOST:PORT of a running Ray cluster, or auto; without it that of RAY_ADDRESS, else one is started"
    )
    output: str | None = _flag(None, "DIR", "folder for figures.json and figures.txt")

    def __post_init__(self) -> None:
        self._check_counts()
        _check_names("engines", self.engines or (), ENGINES)
        _check_names("methods", self.methods, METHODS)
        for name, choices in (
            ("dtype", DTYPES),
            ("answer_engine", ANSWER_ENGINES),
            ("runtime", ("ray", "local")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(name, getattr(self, name), f"it must be {_either(choices)}")
        if not is_device(self.device):
            raise ConfigError("device", self.device, DEVICE_FORM)
        if self.answer_engine == "vllm" and self.runtime == "local":
            raise ConfigError("runtime", "local", "vLLM changes the process that it runs in: use ray")
        if not self.tasks or not all(self.tasks):
            raise ConfigError("tasks", ",".join(self.tasks), "it must be names, as in notes,chain")
        if not self.methods and self.engines == ():
            raise ConfigError("methods", NOTHING, "without engines, too, nothing is left")
        try:
            parse_thoughts(self.thoughts)
        except ValueError as problem:
            raise ConfigError("thoughts", self.thoughts, str(problem)) from None
        if not 0 < self.keep <= 1:
            raise ConfigError("keep", self.keep, "it must be above 0 and at most 1")
        check_address(self.address)
        if self.output is not None:
            expand_home("output", self.output)

    def _check_counts(self) -> None:
        names = ["questions", "batch_size", "prompt_tokens", "min_new_tokens", "repeats", "limit", "latent_steps"]
        check_positive(self, *names, *(["threads"] if self.threads is not None else []))
        if self.max_new_tokens < self.min_new_tokens:
            least = f"it must be at least min_new_tokens, which is {self.min_new_tokens}"
            raise ConfigError("max_new_tokens", self.max_new_tokens, least)
        if not self.concurrency or min(self.concurrency) < 1:
            given = ",".join(map(str, self.concurrency))
            raise ConfigError("concurrency", given, "it must be whole numbers of at least 1, as in 1,8,32")
        if self.methods and self.limit < max(self.concurrency):
            most = max(self.concurrency)
            raise ConfigError("limit", self.limit, f"it must be at least {most}, the largest concurrency")


def names_in(text: str) -> tuple[str, ...]:
    """Return the names of a list such as `static,vllm`; none for `none`."""
    return () if text.strip() == NOTHING else tuple(name.strip() for name in text.split(","))


def _check_names(field: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not set(names) <= set(known):
        raise ConfigError(field, ",".join(names), f"it must be names out of {', '.join(known)}, or {NOTHING}")


def _either(choices: tuple[str, ...]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"
