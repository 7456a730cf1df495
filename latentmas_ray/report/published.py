"""The results that were published for the method (arXiv 2511.20639), for comparison with a run's own."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from latentmas_ray.config import RunConfig

# Names of tasks, without punctuation -> their names in the published tables.
_TASKS = {
    "arce": "ARC-E",
    "arceasy": "ARC-E",
    "arcc": "ARC-C",
    "arcchallenge": "ARC-C",
    "gsm8k": "GSM8K",
    "medqa": "MedQA",
    "mbppplus": "MBPP+",
    "humanevalplus": "HumanEval+",
    "aime24": "AIME24",
    "aime2024": "AIME24",
    "aime25": "AIME25",
    "aime2025": "AIME25",
    "gpqa": "GPQA-D",
    "gpqad": "GPQA-D",
    "gpqadiamond": "GPQA-D",
}
_MODEL = re.compile(r"qwen3-(4b|8b|14b)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, kw_only=True)
class PublishedCell:
    """The published result for one method, topology, task and model: the mean of three runs."""

    accuracy: float  # a fraction
    output_tokens: float  # per question
    seconds: float  # per run


def find_cell(config: RunConfig) -> PublishedCell | None:
    """Return the published result for a run's method, topology, task and model; None for a control, and if none was
    published. The name of the model's hub id or folder must be that of one of the three models."""
    if config.memory != "matched" or config.models or config.method == "vote":
        return None
    tables = _tables()
    task = task_title(config.task)
    model = _MODEL.fullmatch(PurePath(config.model).name)
    of_task = tables["cells"].get(config.topology, {}).get(task, {})
    figures = of_task.get(model[1].upper()) if model else None
    if figures is None:
        return None
    percent, tokens, seconds = (row[tables["methods"].index(config.method)] for row in figures)
    return PublishedCell(accuracy=percent / 100, output_tokens=tokens, seconds=seconds)


def task_title(task: str) -> str:
    """Return a task's title, for a name or a file: the published name if there is one."""
    stem = file_stem(task)
    return _TASKS.get(_plain(stem), stem)


def published_source() -> str:
    """Return the source of the published results."""
    return str(_tables()["source"])


def file_stem(name: str) -> str:
    """Return a task's or model's name without folders and file endings: `data/gsm8k.jsonl.gz` -> `gsm8k`."""
    return PurePath(name).name.removesuffix(".gz").removesuffix(".jsonl") or name


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))


@cache
def _tables() -> Mapping[str, Any]:
    text = files("latentmas_ray.report").joinpath("published.json").read_text(encoding="utf-8")
    tables: Mapping[str, Any] = json.loads(text)
    return tables
