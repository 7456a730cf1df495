"""What a plan says of hand-overs is what a run hands over, to the byte, for each kind of cache."""

import json
from collections import Counter
from pathlib import Path

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.cli.main import main
from latentmas_ray.placement import LinkSpeeds, PlanRequest, Workload, known_dims, make_plan, nodes_alike
from latentmas_ray.topology.agent import Topology
from latentmas_ray.topology.yaml import dump_topology
from tests.cases.scheduler import agent, topology
from tests.numerics.sweep.listing import all_families
from tests.numerics.sweep.random_models import random_model, save, small_config

QUESTIONS = [f"What is {number} + 9?" for number in range(3)]
LATENT_STEPS = 5
TOPOLOGIES = {
    "chain": topology(
        agent("planner", keep=0.3),
        agent("critic", "planner", latent_steps=2),
        agent("judger", "critic", thinks="text"),
    ),
    "diamond": topology(
        agent("root", hands_over="prompt"),
        agent("left", "root", keep=0.5),
        agent("right", "root", hands_over="latents"),
        agent("end", "left", "right", thinks="text"),
    ),
}


@pytest.mark.parametrize("made", TOPOLOGIES.values(), ids=TOPOLOGIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_planned_bytes_are_those_of_a_run(made: Topology, dtype: str) -> None:
    """Every agent of these topologies has the question alone as its prompt, so all prompts are of one length."""
    moved: Counter[tuple[str, str]] = Counter()
    with LatentMAS(
        model="tiny",
        topology=made,
        runtime="local",
        dtype=dtype,
        latent_steps=LATENT_STEPS,
        max_new_tokens=2,
        batch_size=len(QUESTIONS),
    ) as system:
        answers = list(system.run(QUESTIONS))
    (prompt_tokens,) = {use.prompt_tokens for answer in answers for use in answer.agents.values()}
    for answer in answers:
        moved.update({(one.source, one.reader): one.num_bytes for one in answer.transfers})
    figures = known_dims("tiny")
    assert figures is not None
    names = tuple(one.name for one in made.agents)
    plan = make_plan(
        PlanRequest(
            agents=names,
            replicas=dict.fromkeys(names, 1),
            nodes=nodes_alike(1, num_gpus=0, num_cpus=4),
            topology=made,
            model=figures.in_dtype(dtype),
            workload=Workload(
                batch_size=len(QUESTIONS), prompt_tokens=prompt_tokens, latent_steps=LATENT_STEPS, max_new_tokens=2
            ),
        )
    )
    assert {(one.source, one.reader): one.num_bytes for one in plan.hand_overs(LinkSpeeds())} == dict(moved)


# States in a layer of their own, states next to keys, latents, keys of several shapes, and one block for many layers.
@pytest.mark.parametrize("family", ["qwen3_next", "falcon_h1", "deepseek_v2", "gemma4", "zamba2"])
def test_a_plan_states_every_kind_of_cache(family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = small_config(all_families()[family])
    save(random_model(config), config, tmp_path)
    team = topology(agent("planner"), agent("critic", "planner"), agent("judger", "critic", thinks="text"))
    settings = {"runtime": "local", "latent_steps": LATENT_STEPS, "max_new_tokens": 2, "dtype": "bfloat16"}
    with LatentMAS(str(tmp_path), topology=team, **settings) as system:
        answer = system.ask(QUESTIONS[0])
    chain = tmp_path / "chain.yaml"
    chain.write_text(dump_topology(team))
    given = ["plan", "--json", "--model", str(tmp_path), "--topology", str(chain), "--dtype", "bfloat16"]
    sizes = ["--latent-steps", str(LATENT_STEPS), "--batch-size", "1"]
    capfd.readouterr()
    assert main([*given, *sizes, "--prompt-tokens", str(answer.agents["planner"].prompt_tokens)]) == 0
    said = json.loads(capfd.readouterr().out)
    planned = {(one["source"], one["reader"]): one["num_bytes"] for one in said["hand_overs"]}
    assert planned == {(one.source, one.reader): one.num_bytes for one in answer.transfers}
    assert main(["doctor", "--json", "--model", str(tmp_path), "--dtype", "bfloat16"]) == 0
    doctor = json.loads(capfd.readouterr().out)
    assert said["bytes_per_token"] == doctor["kv_bytes_per_token"]
    assert said["state_bytes_per_question"] == doctor["state_bytes_per_question"]
    assert bool(said["state_bytes_per_question"]) is (family in ("qwen3_next", "falcon_h1", "zamba2"))


def test_a_plan_shows_states_and_refuses_a_merge_of_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = small_config(all_families()["qwen3_next"])
    save(random_model(config), config, tmp_path)
    assert main(["plan", "--model", str(tmp_path)]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    for words in ("cache 1 × (conv_0 state", "B of states", "for each question, in each segment", "questions × states"):
        assert words in shown
    assert main(["plan", "--model", str(tmp_path), "--topology", "hierarchical"]) == 2
    assert "cannot merge parallel branches" in capfd.readouterr().err
