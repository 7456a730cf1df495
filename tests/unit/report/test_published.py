"""Published results are shown only for runs of the same model, task, topology and method."""

from typing import Any

import pytest

from latentmas_ray.config import RunConfig
from latentmas_ray.report.published import PublishedCell, file_stem, find_cell, task_title


def cell_of(**config: Any) -> PublishedCell | None:
    return find_cell(RunConfig(**{"task": "gsm8k", "model": "Qwen/Qwen3-4B", **config}))


@pytest.mark.parametrize(
    ("config", "figures"),
    [
        ({"method": "single"}, (82.4, 1136, 469)),
        ({"method": "text"}, (89.8, 3172, 1970)),
        ({"method": "latent"}, (88.2, 607, 375)),
        ({"model": "/models/qwen3-8b", "task": "data/arc_challenge.jsonl"}, (94.4, 529, 703)),
        ({"model": "Qwen/Qwen3-14B", "task": "humanevalplus.jsonl.gz"}, (86.5, 2042, 1285)),
        ({"model": "Qwen/Qwen3-14B", "task": "humaneval+"}, (86.5, 2042, 1285)),
    ],
)
def test_the_cell_of_a_run(config: dict[str, Any], figures: tuple[float, float, float]) -> None:
    cell = cell_of(**config)
    assert cell is not None
    assert (round(100 * cell.accuracy, 6), cell.output_tokens, cell.seconds) == figures


@pytest.mark.parametrize(
    "config",
    [
        {"model": "tiny"},
        {"model": "Qwen/Qwen3-4B-Instruct-2507"},
        {"model": "Qwen/Qwen3-0.6B"},
        {"task": "notes"},
        {"task": "mbpp"},
        {"task": "aime24"},  # not published for this model
        {"topology": "mine.yaml"},
        {"memory": "deranged"},
    ],
)
def test_other_runs_have_no_cell(config: dict[str, Any]) -> None:
    assert cell_of(**config) is None


@pytest.mark.parametrize("topology", ["sequential", "hierarchical"])
@pytest.mark.parametrize(
    "task",
    ["arc_easy", "arc-c", "gsm8k", "medqa", "mbppplus", "humanevalplus", "aime2024", "aime25", "gpqa_diamond"],
)
def test_every_task_has_cells(task: str, topology: str) -> None:
    for method in ("single", "text", "latent"):
        cell = cell_of(task=task, topology=topology, method=method, model="Qwen3-8B")
        assert cell is not None
        assert 0 < cell.accuracy < 1
        assert cell.output_tokens > 100
        assert cell.seconds > 10


def test_a_task_has_one_title_for_its_name_and_file() -> None:
    assert {task_title(name) for name in ("arc_e", "ARC-Easy", "data/arc_easy.jsonl")} == {"ARC-E"}
    assert task_title("data/mine.jsonl.gz") == "mine"


def test_names_without_folders() -> None:
    assert file_stem("a/b/gsm8k.jsonl.gz") == "gsm8k"
    assert file_stem("org/Model-1.5B") == "Model-1.5B"
    assert file_stem("tiny") == "tiny"
