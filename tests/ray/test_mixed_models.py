"""Agents of different models on actors: what the same run in one process gives, token for token."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from latentmas_ray import Agent, LatentMAS, Topology
from latentmas_ray.models.presets import tiny_tokenizer
from tests.numerics.families import GQA

TEAM = Topology(
    name="team",
    agents=[
        Agent(name="first", prompt="Think about: {{ question }}", latent_steps="max:6:0.5"),
        Agent(name="second", prompt="Check: {{ question }}", latent_steps=2),
        Agent(name="last", reads=["first", "second"], thinks="text", prompt="Answer: {{ question }}"),
    ],
)
ASKED = ["How many beads?", "Which is more: two or three beads?", "And four?"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "other"
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**{**GQA, "hidden_size": 96, "num_hidden_layers": 3})).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def rows_of(**fields: Any) -> list[dict[str, Any]]:
    """For each question its answer, and how each segment was read."""
    with (
        warnings.catch_warnings(),
        LatentMAS(topology=TEAM, temperature=0.0, max_new_tokens=5, batch_size=2, dtype="float32", **fields) as mas,
    ):
        warnings.simplefilter("ignore")
        return [
            {
                "answer": answer.answer_token_ids,
                "thoughts": {name: use.latent_steps for name, use in answer.agents.items()},
                "reads": {(one.source, one.reader): (one.mode, one.num_bytes) for one in answer.transfers},
            }
            for answer in mas.map(ASKED)
        ]


def test_teams_answer_on_actors_as_in_one_process(cluster: None, other: str, tmp_path: Path) -> None:
    team = {"models": {"second": other}}
    on_ray, local = rows_of(replicas={"first": 2}, **team), rows_of(runtime="local", **team)
    assert [row["answer"] for row in on_ray] == [row["answer"] for row in local]
    assert [row["thoughts"] for row in on_ray] == [row["thoughts"] for row in local]
    assert min(row["thoughts"]["first"] for row in on_ray) < 6  # so a reader waits for lengths and translated inputs
    reads = on_ray[0]["reads"]
    assert [reads[one, "last"][0] for one in ("first", "second")] == ["kv", "translated"]
    assert reads["second", "last"][1] < reads["first", "last"][1] / 4
