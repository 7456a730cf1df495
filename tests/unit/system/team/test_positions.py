"""Latent steps that cannot fit the model's positions are refused when the system is made."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray import Agent, LatentMAS, Topology
from latentmas_ray.cli.main import main
from latentmas_ray.config import make_config
from latentmas_ray.errors import ConfigError, InputError, TopologyError
from latentmas_ray.system.team.positions import check_steps_fit

ALONE = Topology(
    name="pair", agents=[Agent(name="a", prompt="x"), Agent(name="b", reads="a", thinks="text", prompt="y")]
)
CHAIN = Topology.load("sequential")
BRANCHES = Topology.load("hierarchical")


def limits_of(topology: Topology, limit: int) -> dict[str, int | None]:
    return {agent.name: limit for agent in topology.agents}


def own(steps: int) -> Topology:
    return ALONE.replace(agents=[ALONE.agents[0].replace(latent_steps=steps), ALONE.agents[1]])


@pytest.mark.parametrize(
    ("topology", "steps", "limit", "most"),
    [
        (ALONE, 100, 100, 97),
        (ALONE, 98, 100, 97),
        (CHAIN, 40, 100, 31),  # three thinkers with one position for each prompt, and two for the judger
        (CHAIN, 100_000, 32_768, 10_921),
        (BRANCHES, 40, 100, 31),  # parallel branches follow one another in their reader
    ],
)
def test_the_largest_number_that_fits_is_named(topology: Topology, steps: int, limit: int, most: int) -> None:
    with pytest.raises(ConfigError, match=f"^latent_steps: got '{steps}'; .* it must be at most {most}, less"):
        check_steps_fit(make_config({"latent_steps": steps}), topology, limits_of(topology, limit))
    check_steps_fit(make_config({"latent_steps": most}), topology, limits_of(topology, limit))
    with pytest.raises(ConfigError):
        check_steps_fit(make_config({"latent_steps": most + 1}), topology, limits_of(topology, limit))


@pytest.mark.parametrize("steps", [97, 98, 5000])
def test_the_steps_of_an_agent_are_named_with_the_agent(steps: int) -> None:
    if steps == 97:
        check_steps_fit(make_config({}), own(steps), limits_of(ALONE, 100))
        return
    with pytest.raises(TopologyError, match=rf"^agents\.a\.latent_steps: got '{steps}'; agent b needs at least"):
        check_steps_fit(make_config({}), own(steps), limits_of(ALONE, 100))


def test_text_in_place_of_memory_may_still_fit() -> None:
    check_steps_fit(make_config({"latent_steps": 40, "guard": "text"}), CHAIN, limits_of(CHAIN, 100))
    with pytest.raises(ConfigError):
        check_steps_fit(make_config({"latent_steps": 100, "guard": "text"}), CHAIN, limits_of(CHAIN, 100))


def test_each_agent_has_the_positions_of_its_own_model() -> None:
    config = make_config({"latent_steps": 40, "models": {"judger": "small"}})
    limits: dict[str, int | None] = {**dict.fromkeys(CHAIN.by_name), "judger": 100}
    with pytest.raises(ConfigError, match="agent judger needs at least 125 positions, model small has 100; it must be"):
        check_steps_fit(config, CHAIN, limits)
    check_steps_fit(config, CHAIN, {**limits_of(CHAIN, 125)})


@given(st.integers(0, 400), st.integers(1, 1000), st.sampled_from([ALONE, CHAIN, BRANCHES]))
def test_what_is_refused_can_never_fit(steps: int, limit: int, topology: Topology) -> None:
    thinkers = len(topology.agents) - 1
    needed = thinkers * (steps + 1) + 2  # all built-in judgers read every other agent
    try:
        check_steps_fit(make_config({"latent_steps": steps}), topology, limits_of(topology, limit))
        assert needed <= limit
    except InputError:
        assert needed > limit


@pytest.mark.parametrize("fields", [{"latent_steps": 32_768}, {"latent_steps": 100_000, "topology": "hierarchical"}])
def test_python_refuses_them_before_anything_starts(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^latent_steps: .*model tiny has 32768; it must be at most 10921"):
        LatentMAS("tiny", runtime="local", **fields)


def test_a_list_of_steps_is_checked_as_a_whole() -> None:
    mas = LatentMAS("tiny", runtime="local")
    with pytest.raises(ConfigError, match=r"^latent_steps: got '20000'"):
        mas.evaluate("sample", limit=1, latent_steps=[0, 20_000])


def test_methods_without_thoughts_are_not_concerned() -> None:
    for method in ("single", "text"):
        LatentMAS("tiny", runtime="local", method=method, latent_steps=100_000)  # type: ignore[arg-type]


def test_the_command_refuses_them_before_it_reads_questions(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task = str(tmp_path / "q.jsonl")
    Path(task).write_text("no question")
    assert main(["eval", "--task", task, "--latent-steps", "100000", "--runtime", "local"]) == 2
    err = capfd.readouterr().err
    assert err.startswith(
        "error: --latent-steps: got '100000'; agent judger needs at least 300005 positions, model tiny"
    )
    assert err.count("\n") == 1
