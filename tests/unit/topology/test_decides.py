"""Topologies in which several agents answer."""

import pytest

from latentmas_ray.errors import TaskError, TopologyError
from latentmas_ray.tasks import mismatch_memory
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import (
    Agent,
    Topology,
    apply_control,
    apply_method,
    corrupt_one,
    digest_topology,
    dump_topology,
    parse_topology,
    seen_by,
)

TEXT = """\
name: three
decides: ow-l
agents:
  - {name: planner, prompt: "{{ question }}"}
  - {name: one, thinks: text, reads: planner, prompt: "{{ question }}"}
  - {name: two, thinks: text, reads: planner, prompt: "{{ question }}"}
  - {name: three, thinks: text, prompt: "{{ question }}"}
"""
TEAM = parse_topology(TEXT, "t.yaml")


def question(number: int) -> Question:
    return Question(id=f"q{number}", question=f"{number}?", kind="number", gold=str(number), record={"question": "?"})


def test_several_agents_answer() -> None:
    assert TEAM.decides == "ow-l"
    assert [agent.name for agent in TEAM.answering_agents] == ["one", "two", "three"]
    assert TEAM.answers("two")
    assert not TEAM.answers("planner")
    with pytest.raises(ValueError, match="too many values"):
        _ = TEAM.answering_agent
    assert parse_topology(dump_topology(TEAM), "again.yaml") == TEAM
    other = TEAM.replace(decides="majority")
    assert other != TEAM
    assert hash(other) != hash(TEAM)
    assert digest_topology(other) != digest_topology(TEAM)


def test_a_topology_without_the_key_is_written_as_before() -> None:
    single = Topology(name="x", agents=[Agent(name="a", thinks="text", prompt="p")])
    assert single.decides is None
    assert "decides" not in dump_topology(single)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("decides: ow-l", "decides: best"), "t.yaml:2: decides: got 'best'; it must be one of majority, ow, sp, isp"),
        (("decides: ow-l", "decides: 3"), "t.yaml:2: decides: got '3'; it must be one of majority"),
        (("decides: ow-l\n", ""), "t.yaml:5: agents.two: got 'one, two, three'; no agent reads these"),
        (("thinks: text, prompt", "prompt"), "t.yaml:7: agents.three.thinks: got 'latent'"),
        (("decides", "decide"), "t.yaml:2: decide: got 'decide'; unknown key; did you mean decides?"),
    ],
)
def test_what_is_wrong_with_a_team(change: tuple[str, str], says: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse_topology(TEXT.replace(*change), "t.yaml")
    assert says in str(caught.value)


def test_methods_and_controls() -> None:
    text = apply_method(TEAM, "text")
    assert text.decides == "ow-l"
    assert [agent.name for agent in text.text_ancestors("two")] == ["planner"]
    assert len(apply_method(TEAM, "single").agents) == 1
    assert apply_method(TEAM, "single").decides is None
    none = apply_control(TEAM, "none")
    assert [(agent.name, agent.reads) for agent in none.agents] == [("one", ()), ("two", ()), ("three", ())]
    assert none.decides == "ow-l"
    assert apply_control(TEAM, "prompt-only").by_name["planner"].hands_over == "prompt"


def test_agents_that_answer_see_their_own_question() -> None:
    first, *_ = mismatch_memory([question(1), question(2)])
    seen = {agent.name: seen_by(agent, TEAM, first).question for agent in TEAM.agents}
    assert seen == {"planner": "2?", "one": "1?", "two": "1?", "three": "1?"}


def test_nothing_is_corrupted_for_agents_that_answer() -> None:
    alone = apply_control(TEAM, "none")
    record = {"question": "1?", "wrong_question": "2?", "wrong_gold": "2"}
    wrong = Question(id="a", question="1?", kind="number", gold="1", record=record)
    with pytest.raises(TaskError, match="no prompt but perhaps that of one, two, three, which answers"):
        corrupt_one(alone, [wrong])
