"""What a plan says of hand-overs is what a run hands over, to the byte."""

from collections import Counter

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.placement import LinkSpeeds, PlanRequest, Workload, known_dims, make_plan, nodes_alike
from latentmas_ray.topology.agent import Topology
from tests.cases.scheduler import agent, topology

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
