"""The pictures of thoughts: one column per agent, with all questions and the chosen one."""

from dataclasses import replace
from pathlib import Path

import pytest

from latentmas_ray.engine.diagnostics.trace import AgentTrace, Thought
from latentmas_ray.report import load_runs
from latentmas_ray.report.html.groups import make_groups
from latentmas_ray.report.html.thoughts import ThoughtsPicture, make_thoughts_picture
from latentmas_ray.runs.traces import Trace
from tests.cases.report import make_trace, parts_of, write_simple_run

GOOD = make_trace().agents["planner"].thoughts[0]


def picture_of(folder: Path, traces: list[Trace]) -> ThoughtsPicture:
    write_simple_run(folder, method="latent", traces=traces)
    (group,) = make_groups([load_runs(folder)])
    found = make_thoughts_picture(group.members[0])
    assert found is not None
    return found


def thinking(name: str, **agents: list[float]) -> Trace:
    """Make a trace of thoughts with these entropies."""
    thoughts = {agent: tuple(replace(GOOD, entropy=value) for value in values) for agent, values in agents.items()}
    return Trace(id=name, agents={agent: AgentTrace(prompt="", thoughts=found) for agent, found in thoughts.items()})


def test_each_agent_that_thinks_has_a_column_and_a_colour(tmp_path: Path) -> None:
    found = picture_of(tmp_path / "run", [thinking("q0", planner=[2.0, 1.0]), thinking("q1", critic=[2.0])])
    assert [(column.agent, column.accent, column.num_thoughts) for column in found.agents] == [
        ("planner", "agent-0", 2),
        ("critic", "agent-1", 1),
    ]
    assert found.questions == ("q0", "q1")
    assert found.paths["q0"].keys() == {"planner"}


def test_a_band_holds_the_middle_half_of_the_questions(tmp_path: Path) -> None:
    traces = [thinking(f"q{number}", planner=[0.0, float(number)]) for number in range(5)]
    band = picture_of(tmp_path / "run", traces).agents[0].bands[0]
    assert (band.low, band.high) == ("0", "4")
    # Heights are 94 for the least and 6 for the most: the quartiles of 0, 1, 2, 3, 4 are 1 and 3, their median is 2.
    assert band.quartiles == "M0 94.0L100 28.0L100 72.0L0 94.0Z"
    assert band.median == "M0 94.0L100 50.0"


def test_the_chosen_question_is_drawn_on_the_scale_of_all(tmp_path: Path) -> None:
    found = picture_of(tmp_path / "run", [thinking("q0", planner=[4.0, 0.0]), thinking("q1", planner=[2.0, 2.0])])
    assert found.paths["q0"]["planner"]["entropy"] == "M0 6.0L100 94.0"
    assert found.paths["q1"]["planner"]["entropy"] == "M0 50.0L100 50.0"


def test_of_many_thoughts_the_first_and_last_quarter_are_compared(tmp_path: Path) -> None:
    entropies = [0.0, 2.0, 9.0, 9.0, 9.0, 9.0, 4.0, 6.0]
    (column,) = picture_of(tmp_path / "run", [thinking("q0", planner=entropies)]).agents
    assert column.summary.startswith(
        "From the first 2 of 8 thoughts to the last, the entropy of the next token rises from 1 to 5 nats and"
    )


@pytest.mark.parametrize(
    ("entropies", "words"),
    [
        ([4.0, 2.0, 1.0], "the entropy of the next token falls from 4 to 1 nats"),
        ([1.0, 0.5, 2.5], "the entropy of the next token rises from 1 to 2.5 nats"),
        ([2.0, 5.0, 2.05], "the entropy of the next token stays near 2"),
    ],
)
def test_the_summary_describes_the_bands(tmp_path: Path, entropies: list[float], words: str) -> None:
    (column,) = picture_of(tmp_path / "run", [thinking("q0", planner=entropies)]).agents
    assert column.summary.startswith(f"Over 3 thoughts, {words}")
    assert column.summary.endswith(" and the distance to the nearest token stays near 0.25.")


def test_one_thought_has_no_summary_of_changes(tmp_path: Path) -> None:
    (column,) = picture_of(tmp_path / "run", [thinking("q0", planner=[2.0])]).agents
    assert column.summary == ""
    assert column.bands[0].median == "M0 94.0H100"


def test_a_thought_without_a_figure_leaves_a_gap(tmp_path: Path) -> None:
    broken = Thought(tokens=(), entropy=0.0, norm=0.0, distance=0.0, nearest="", xy=(0.0, 0.0))
    thoughts = (replace(GOOD, entropy=2.0), GOOD, broken, replace(GOOD, entropy=1.0))
    trace = Trace(id="q0", agents={"planner": AgentTrace(prompt="", thoughts=thoughts)})
    (column,) = picture_of(tmp_path / "run", [trace]).agents
    assert column.bands[0].median.count("M") == 2
    assert column.cloud.count("M") == 3


def test_without_a_map_of_the_embeddings_there_is_no_plane(tmp_path: Path) -> None:
    folder = write_simple_run(tmp_path / "run", method="latent", traces=[make_trace()])
    (folder / "embeddings.json").unlink()
    parts = parts_of([folder])
    assert "thoughts" in parts.sections
    assert "among the input embeddings" not in parts.text.split("One column an agent")[0]
    assert parts.data("paths-r0")["q0"]["planner"].keys() == {"entropy", "distance"}
