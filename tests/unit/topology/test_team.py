"""Which agent has which model, and over which links memory is translated."""

from dataclasses import replace

import pytest

from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.topology import AgentModel, Team, dump_topology, own_models, parse_topology
from latentmas_ray.topology.team import describe_translations
from tests.cases.scheduler import CHAIN, DIAMOND, agent, topology


def team_of(made: object = DIAMOND, **models: str) -> Team:
    return Team.of(made, model="tiny", models=models, revision=None)  # type: ignore[arg-type]


def test_models_of_agents() -> None:
    own = topology(agent("a", model="one"), agent("b", "a", dtype="bfloat16"), agent("c", "b", thinks="text"))
    team = Team.of(own, model="tiny", models={"c": "two"}, dtype="float32", revision="main")
    assert team.by_agent == {
        "a": AgentModel("one", "float32"),
        "b": AgentModel("tiny", "bfloat16", "main"),
        "c": AgentModel("two", "float32"),
    }
    assert team.is_mixed
    assert not team_of().is_mixed
    assert str(team.by_agent["b"]) == "tiny (bfloat16, main)"


def test_links_between_models() -> None:
    team = team_of(left="other")
    assert team.foreign_to(DIAMOND, "left") == {"root": "tiny"}
    assert team.foreign_to(DIAMOND, "right") == {}
    assert team.foreign_to(DIAMOND, "end") == {"left": "other"}
    assert team.read_by(DIAMOND, AgentModel("tiny")) == ("other",)
    assert team.read_by(DIAMOND, AgentModel("other")) == ("tiny",)
    foreign = {name: team.foreign_to(DIAMOND, name) for name in DIAMOND.by_name}
    assert list(describe_translations(DIAMOND, foreign, team)) == [
        "root → left: memory is translated from tiny to other and recomputed",
        "left → end: memory is translated from other to tiny and recomputed",
    ]
    (line, _) = describe_translations(DIAMOND, foreign, replace(team, translation="maps/a.safetensors"))
    assert line.endswith("translated from tiny to other by the trained map in maps/a.safetensors, and recomputed")


def test_agents_with_one_model_need_no_other() -> None:
    own = topology(agent("a", model="tiny"), agent("b", "a", model="other"), agent("c", "b", thinks="text"))
    assert own_models(own, "tiny", {"b": "other", "c": "tiny"}) == {"b": "other"}
    assert own_models(own, "other", {}) == {"a": "tiny"}


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"unknown": "x"}, "there is no agent 'unknown'; the agents are planner, critic, judger"),
        ({"critic": "x"}, "agents.critic.model is one: leave one of the two out"),
    ],
)
def test_what_is_refused(models: dict[str, str], message: str) -> None:
    own = CHAIN.replace(agents=[one.replace(model="one") if one.name == "critic" else one for one in CHAIN.agents])
    with pytest.raises(ConfigError, match=message):
        own_models(own, "tiny", models)


def test_files_keep_models() -> None:
    own = topology(agent("a", model="one", dtype="float32"), agent("b", "a", thinks="text", model="two"))
    assert parse_topology(dump_topology(own), "text") == own
    with pytest.raises(TopologyError, match=r"agents\.a\.dtype: got 'int8'; it must be one of auto, float32, bfloat16"):
        agent("a", dtype="int8")
