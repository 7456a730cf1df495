"""A team whose agents decide, on actors: what it gives in one process, and what its memory costs."""

import json
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray import Agent, LatentMAS, Topology

PROMPT = "Question: {{ question }}\nAnswer."
TEAM = Topology(
    name="team",
    decides="ow-l",
    agents=[
        Agent(name="planner", prompt="Question: {{ question }}\nPlan the steps."),
        Agent(name="first", reads="planner", thinks="text", prompt=PROMPT),
        Agent(name="second", reads="planner", thinks="text", prompt=PROMPT),
    ],
)
SETTINGS: dict[str, Any] = {
    "task": "chain",
    "topology": TEAM,
    "latent_steps": 3,
    "temperature": 1.2,
    "max_new_tokens": 20,
    "batch_size": 3,
    "samples": 3,
    "dtype": "float32",
}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("placement", ["auto", "colocate"])
def test_a_team_on_actors_decides_as_in_one_process(placement: str, tmp_path: Path) -> None:
    with LatentMAS("tiny", **SETTINGS, runtime="local") as mas:
        local = mas.evaluate(limit=5, output=str(tmp_path / "local"))
    with LatentMAS("tiny", **SETTINGS, threads=1, placement=placement, transport="auto") as mas:
        found = mas.evaluate(limit=5, output=str(tmp_path / "ray"))
    for one, other in zip(rows_of(tmp_path / "ray"), rows_of(tmp_path / "local"), strict=True):
        for key in ("answer", "prediction", "correct", "votes", "decision", "tokens", "memory_bytes"):
            assert one[key] == other[key], key
        # Each answering agent reads the memory once, whatever the number of its samples.
        assert [(read["source"], read["reader"]) for read in one["transfers"]] == [
            ("planner", "first"),
            ("planner", "second"),
        ]
        assert all(read["num_bytes"] == one["agent_memory_bytes"]["planner"] for read in one["transfers"])
    assert found.votes == local.votes
    assert found.accuracy == local.accuracy
