"""The cells of the tables that the method was published with (arXiv 2511.20639), to stand beside a run's own."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from latentmas_ray.config import RunConfig

# How tasks may be called here, without punctuation -> their names in the published tables.
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
    """What was published for one method, topology, task and model; a mean of three runs."""

    accuracy: float  # a fraction
    output_tokens: float  # a question
    seconds: float  # a run


def find_cell(config: RunConfig) -> PublishedCell | None:
    """The published cell for the method, topology, task and model of a run; None for a control, and where none was
    published. The model must be one of the three by its name, as a hub id or as a folder."""
    if config.memory != "matched":
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
    """How a task is called for people, whether it was given by name or as a file: published names where there are."""
    stem = file_stem(task)
    return _TASKS.get(_plain(stem), stem)


def published_source() -> str:
    """Where the cells are from."""
    return str(_tables()["source"])


def file_stem(name: str) -> str:
    """A task's or model's name without folders and the endings of question files: `data/gsm8k.jsonl.gz` -> `gsm8k`."""
    return PurePath(name).name.removesuffix(".gz").removesuffix(".jsonl") or name


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))


@cache
def _tables() -> Mapping[str, Any]:
    text = files("latentmas_ray.report").joinpath("published.json").read_text(encoding="utf-8")
    tables: Mapping[str, Any] = json.loads(text)
    return tables
