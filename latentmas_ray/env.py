"""Every environment variable that this package reads, typed and checked. No other module touches the environment.

An invalid value raises `ConfigError` that names the variable.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home

Requirement = Literal["browser", "clients", "gpu", "multinode", "real", "serve", "slow", "vllm"]
OtlpProtocol = Literal["http/protobuf", "grpc"]

_REQUIREMENTS: dict[str, Requirement] = {name: name for name in get_args(Requirement)}
_PROTOCOLS: dict[str, OtlpProtocol] = {name: name for name in get_args(OtlpProtocol)}
MAX_THREADS = 4096  # of one process


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The values of the environment variables, as `read_environment` returns them."""

    cache_dir: Path  # LATENTMAS_CACHE_DIR: where realignment matrices are stored
    ray_address: str | None  # RAY_ADDRESS: the cluster that a run joins when --address is not given
    temp_folder: tuple[str, str | None]  # RAY_TMPDIR, or else TMPDIR, which Ray uses: its name and value
    api_keys: str | None  # LATENTMAS_API_KEYS: entries of the keys that an endpoint accepts, with commas in between
    torch_threads: int | None  # LATENTMAS_TORCH_THREADS: torch threads of an actor, or of runtime local
    require: frozenset[Requirement]  # LATENTMAS_REQUIRE: tests that must run instead of being skipped or left out


def read_environment() -> Environment:
    """Read and check every variable. Raises ConfigError that names an invalid one."""
    return Environment(
        cache_dir=_cache_dir(),
        ray_address=os.environ.get("RAY_ADDRESS") or None,
        temp_folder=_temp_folder(),
        api_keys=os.environ.get("LATENTMAS_API_KEYS", "").strip() or None,
        torch_threads=_torch_threads(),
        require=_require(),
    )


def _cache_dir() -> Path:
    try:
        if given := os.environ.get("LATENTMAS_CACHE_DIR"):
            return Path(expand_home("LATENTMAS_CACHE_DIR", given))
        shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # The base directory specification: a relative path counts as unset.
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "latentmas_ray"
    except RuntimeError:
        given = os.environ.get("LATENTMAS_CACHE_DIR", "")
        raise ConfigError("LATENTMAS_CACHE_DIR", given, "it must be a folder: this user has no home folder") from None


def _temp_folder() -> tuple[str, str | None]:
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    return name, os.environ.get(name)


def _torch_threads() -> int | None:
    name = "LATENTMAS_TORCH_THREADS"
    text = os.environ.get(name, "")
    if not text:
        return None
    # The length is checked first: int() refuses very long numbers with an error of its own.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_THREADS):
        raise ConfigError(name, text, f"it must be a whole number from 1 to {MAX_THREADS}")
    return int(text)


def _require() -> frozenset[Requirement]:
    text = os.environ.get("LATENTMAS_REQUIRE", "")
    names = [name.strip() for name in text.split(",") if name.strip()]
    if any(name not in _REQUIREMENTS for name in names):
        raise ConfigError("LATENTMAS_REQUIRE", text, f"it must be a comma-separated list of {', '.join(_REQUIREMENTS)}")
    return frozenset(_REQUIREMENTS[name] for name in names)


def otlp_protocol() -> OtlpProtocol:
    """Return how spans are exported, by OpenTelemetry's variables. Raises ConfigError that names the variable."""
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if text := os.environ.get(name, "").strip():
            if (known := _PROTOCOLS.get(text)) is not None:
                return known
            raise ConfigError(name, text, f"it must be {' or '.join(_PROTOCOLS)}")
    return "http/protobuf"


def client_api_key() -> str | None:
    """Return the key with which this process asks a server, from LATENTMAS_API_KEY; None without one. Raises
    ConfigError, which does not show it."""
    name = "LATENTMAS_API_KEY"
    text = os.environ.get(name, "").strip()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ConfigError(name, "***", "it must be one word of ASCII characters, as the server's file of keys has it")
    return text or None


def captures_message_content() -> bool:
    """Return whether spans may contain questions and answers, by the variable with which OpenTelemetry's conventions
    let users ask for it. Raises ConfigError that names it."""
    name = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    text = os.environ.get(name, "").strip().lower()
    if text in ("true", "span_only", "span_and_event"):
        return True
    if text in ("", "false", "no_content", "event_only"):
        return False
    raise ConfigError(name, text, "it must be true, false, span_only, span_and_event, event_only or no_content")


def disable_nccl_abort() -> None:
    """Make NCCL raise in the waiting call when a peer is lost. By default torch ends the process.

    Writes environment variables: torch reads them when a process group is created and has no other setting for this.
    """
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
    os.environ["TORCH_NCCL_ENABLE_MONITORING"] = "0"


def silence_unhandled_ray_errors() -> None:
    """Keep Ray from printing errors of results that are never fetched. Call before Ray starts; a user's setting wins.

    When an actor dies, many pending turns fail that the run no longer waits for, each with a traceback. The run
    reports the failure itself.
    """
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")


def set_compute_threads(count: int) -> None:
    """Let torch, and vLLM on a CPU, compute with `count` threads in this process. Call before they are imported: vLLM
    replaces torch's own setting."""
    os.environ["OMP_NUM_THREADS"] = str(count)


def prepare_vllm() -> None:
    """Make vLLM compute in this process, quietly, and report nothing to its makers. A user's setting of its log level
    wins. Call before vLLM is imported: it has no other setting for this."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    # The second model runner, which GPUs get by default, takes logits processors of another interface.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def enter_launched_group(rank: int, world_size: int, host: str, port: int) -> None:
    """Name this process's place among processes that torch's launcher would have started. Each has one GPU, or none."""
    os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"] = str(rank), "0", str(world_size)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = host, str(port)
