"""Questions of a published benchmark, from the hub. The one place that knows the `datasets` library."""

from pathlib import Path
from typing import Any

from latentmas_ray.errors import TaskError, first_line
from latentmas_ray.tasks.registry import Benchmark

_PROBE_SECONDS = 10.0
_MAX_REASON_CHARS = 200


def hub_records(benchmark: Benchmark, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` records of a benchmark, downloaded or out of the library's cache.

    Raises TaskError where the extra `eval` is not installed or does not load, the dataset is gated, cannot be reached,
    has no row, or has another form; it says how to give the questions as a file.
    """
    try:
        import datasets
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise _refusal(benchmark, "the extra eval is not installed: pip install '.[eval]' in a checkout") from error
    except Exception as error:  # a library below it that is broken, or of another version, raises anything
        told = f"the library datasets does not load here ({first_line(error)[:_MAX_REASON_CHARS]})"
        raise _refusal(benchmark, told) from error
    source = benchmark.hub_id
    try:
        if not (Path(source).is_dir() or huggingface_hub.is_offline_mode()):
            # Asked first, because the library tries for half a minute to reach a hub that is not there.
            huggingface_hub.HfApi().dataset_info(source, revision=benchmark.revision, timeout=_PROBE_SECONDS)
        rows = datasets.load_dataset(source, benchmark.config, split=benchmark.split, revision=benchmark.revision)
    except Exception as error:
        raise _refusal(benchmark, _reason(benchmark, error)) from error
    try:
        num_rows = len(rows) if limit is None else min(limit, len(rows))
        records = [benchmark.to_record(rows[number], number) for number in range(num_rows)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        told = f"its rows have another form than expected ({type(error).__name__}: {error})"
        raise _refusal(benchmark, told) from error
    if not records:
        raise _refusal(benchmark, f"{source} has no row in its split {benchmark.split}")
    return records


def _reason(benchmark: Benchmark, error: Exception) -> str:
    said = first_line(error)[:_MAX_REASON_CHARS]
    if benchmark.is_gated and ("gated" in str(error).lower() or "401" in said or "403" in said):
        return f"{benchmark.hub_id} is gated: accept its terms on the hub and log in with `hf auth login`"
    return f"{benchmark.hub_id} cannot be loaded from the hub ({said})"


def _refusal(benchmark: Benchmark, reason: str) -> TaskError:
    way = f"or give its questions as a file: --task FILE.jsonl with {benchmark.file_fields} on every line"
    return TaskError("task", benchmark.name, f"{reason}; {way}")
