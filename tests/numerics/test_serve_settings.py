"""Settings of a run that a server has, too: it starts with each, and its models answer as `latentmas ask` does."""

from pathlib import Path
from typing import Any

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.config import make_config
from latentmas_ray.errors import TopologyError
from latentmas_ray.serve.teams.served import ServedTeams
from tests.cases.endpoint import texts_of
from tests.cases.team_app import TeamApp

QUESTION = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"
PANEL = """name: panel
decides: majority
agents:
- {name: a, thinks: text, prompt: "{{ question }}"}
- {name: b, thinks: text, prompt: "Q: {{ question }}"}
- {name: c, thinks: text, prompt: "{{ question }} "}
"""
READERS = """name: readers
decides: majority
agents:
- {name: scout, prompt: "{{ question }}"}
- {name: a, thinks: text, reads: [scout], prompt: "{{ question }}"}
- {name: b, thinks: text, reads: [scout], prompt: "Q: {{ question }}"}
"""


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": f"latentmas/{model}", "messages": [{"role": "user", "content": QUESTION}], **more}


def of(*names: str) -> list[str]:
    return [f"{name}{method}" for name in names for method in ("", "/single", "/text")]


@pytest.mark.parametrize(
    ("fields", "topologies"),
    [
        ({"replicas": {"judger": 2}}, ()),
        ({"replicas": {"judger": 2, "planner": 1}, "max_replicas": {"judger": 3}}, ("hierarchical",)),
        ({"replicas": {"planner+critic": 2}}, ("hierarchical",)),
        ({"models": {"critic": "small"}, "task": "medqa"}, ("hierarchical",)),
        ({"guard": "drop"}, ()),
        ({"guard": "text"}, ("hierarchical",)),
        ({"samples": 3, "temperature": 0.5, "decides": "ow-l"}, ("hierarchical",)),
        ({"latent_steps": "auto"}, ()),
    ],
)
def test_every_method_and_topology_is_served_with(fields: dict[str, Any], topologies: tuple[str, ...]) -> None:
    """What is about single agents, thoughts or votes concerns only the models that have them."""
    teams = ServedTeams(make_config({"model": "tiny", **fields}), topologies)
    assert list(teams.fleet.models) == of("sequential", *topologies)


def test_what_no_model_can_do_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="there is no agent 'judge'"):
        ServedTeams(make_config({"model": "tiny", "replicas": {"judge": 2}}))
    with pytest.raises(ValueError, match="there is one answer to a question"):
        ServedTeams(make_config({"model": "tiny", "decides": "ow-l"}))


@pytest.mark.parametrize("task", ["notes", "facts"])
def test_prompts_that_no_request_can_fill_are_refused_at_the_start(task: str) -> None:
    with pytest.raises(TopologyError, match=r"agents\.expert_1\.prompt: got 'notes'; a request to sequential does not"):
        ServedTeams(make_config({"model": "tiny", "task": task}))


def test_a_team_without_latent_agents_has_actors_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "panel.yaml").write_text(PANEL)
    teams = ServedTeams(make_config({"model": "tiny", "topology": str(tmp_path / "panel.yaml")}))
    assert list(teams.fleet.models) == ["panel/text", "panel/single"]


@pytest.mark.parametrize("rule", ["ow", "isp", "ow-l"])
def test_several_agents_decide_as_they_do_for_ask(tmp_path: Path, rule: str) -> None:
    """Whole or streamed, and whatever else is asked of them at the same time."""
    path, fields = tmp_path / "readers.yaml", {"temperature": 0.0, "dtype": "float32", "decides": rule}
    path.write_text(READERS)
    if rule == "ow":
        (tmp_path / "accuracies.yaml").write_text("a: 0.4\nb: 0.9\n")
        fields["decide_accuracies"] = str(tmp_path / "accuracies.yaml")
    shared = {"runtime": "local", "latent_steps": 4, "max_new_tokens": 24}
    with LatentMAS("tiny", topology=str(path), **shared, **fields) as mas:  # type: ignore[arg-type]
        expected = mas.ask(QUESTION).answer
    with TeamApp(topology=str(path), **fields) as served:
        for more in ({}, {"stream": True}, {"latentmas": {"conversation": "c"}}):
            assert texts_of(served.ask("POST", "/v1/chat/completions", chat("readers", **more))) == [expected], more
        streams = {one["id"]: one["latentmas"]["streams"] for one in served.ask("GET", "/v1/models").json()["data"]}
        assert streams == {f"latentmas/{model}": model == "readers/single" for model in of("readers")}
        for model in ("readers/single", "readers/text"):
            assert served.ask("POST", "/v1/chat/completions", chat(model)).status_code == 200
        refused = served.ask("POST", "/v1/chat/completions", chat("readers", n=2, temperature=0.5))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")


def test_a_rule_makes_one_answer_of_samples_unless_the_client_asks_for_them() -> None:
    fields: dict[str, Any] = {"temperature": 1.5, "samples": 3, "decides": "majority", "dtype": "float32"}
    shared = {"runtime": "local", "latent_steps": 4, "max_new_tokens": 24, "top_p": 1.0, "seed": 7}
    with LatentMAS("tiny", topology="sequential", **shared, **fields) as mas:
        asked = mas.ask({"id": "q0", "question": QUESTION})
    texts = [vote.answer for vote in asked.votes]
    with TeamApp(**{**shared, **fields}) as served:
        for more in ({}, {"stream": True}):
            body = chat("sequential", seed=7, **more)
            assert texts_of(served.ask("POST", "/v1/chat/completions", body)) == [asked.answer]
            assert texts_of(served.ask("POST", "/v1/chat/completions", body | {"n": 3})) == texts
        # Greedy samples are all the same: the server's number is none of the client's.
        assert len(texts_of(served.ask("POST", "/v1/chat/completions", chat("sequential", temperature=0)))) == 1
        assert served.ask("POST", "/v1/chat/completions", chat("sequential/single")).status_code == 200


def test_a_guard_watches_latent_agents_alone() -> None:
    with TeamApp(guard="text", temperature=0.0) as served:
        for model in of("sequential"):
            assert texts_of(served.ask("POST", "/v1/chat/completions", chat(model)))
