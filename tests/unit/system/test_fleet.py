"""What a fleet serves, and what it refuses before anything starts."""

import shutil
from pathlib import Path

import pytest

from latentmas_ray.config import make_config
from latentmas_ray.errors import ConfigError, InputError
from latentmas_ray.models.names import EMBEDDED_FOLDER
from latentmas_ray.system.serving import CallSettings, Fleet
from latentmas_ray.system.serving.stand_ins import find_stand_ins
from latentmas_ray.tasks.question import Question

QUESTION = Question(id="q0", question="Why?", kind="text", gold=None, record={"question": "Why?"})
TWO_ANSWER = """
name: pair
decides: majority
agents:
  - {name: planner, prompt: "{{ question }}"}
  - {name: left, thinks: text, reads: planner, prompt: "{{ question }}"}
  - {name: right, thinks: text, reads: planner, prompt: "{{ question }}"}
"""
WRITERS = """
name: writers
agents:
  - {name: scribe, thinks: text, prompt: "{{ question }}"}
"""


def fleet(*topologies: str, **fields: object) -> Fleet:
    return Fleet(make_config({"model": "tiny", "runtime": "local", **fields}), topologies)


def written(folder: Path, text: str) -> str:
    path = folder / f"{text.split()[1]}.yaml"
    path.write_text(text)
    return str(path)


def test_each_topology_is_served_with_each_method_that_it_has(tmp_path: Path) -> None:
    served = fleet("hierarchical", written(tmp_path, WRITERS))
    names = [f"{name}{method}" for name in ("sequential", "hierarchical") for method in ("", "/single", "/text")]
    assert list(served.models) == [*names, "writers/text", "writers/single"]


def test_agents_without_actors_have_those_of_their_kind() -> None:
    models = fleet("hierarchical", task="sample").models.values()
    (first, *others) = [(model.config, model.topology) for model in models]
    found = find_stand_ins(first, others)
    thinking = {"planner", "critic", "refiner"}
    assert {found[name, "latent"] for name in ("math_expert", "science_expert", "code_expert")} == thinking
    texts = ("planner", "critic", "refiner", "solver", "summariser", "math_expert")
    assert {found[name, "text"] for name in texts} == {"judger"}
    assert ("judger", "text") not in found


def test_two_topologies_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    both = written(tmp_path, WRITERS), written(tmp_path / "other", WRITERS)
    with pytest.raises(ConfigError, match="another topology is called writers"):
        fleet(*both)


def test_agents_that_think_need_actors_that_think(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="planner thinks in latent space"):
        fleet("sequential", topology=written(tmp_path, WRITERS), method="text")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"latent_steps": 10**6}, "latent_steps"),
        ({"temperature": 0.0, "samples": 2}, "samples"),
    ],
)
def test_settings_that_a_team_cannot_do_are_refused_by_name(settings: dict[str, object], field: str) -> None:
    served = fleet()
    with pytest.raises(InputError) as raised:
        served.call(served.models["sequential"], CallSettings(**settings), [QUESTION])  # type: ignore[arg-type]
    assert raised.value.field == field


def test_several_samples_where_several_agents_answer_are_refused(tmp_path: Path) -> None:
    served = fleet(topology=written(tmp_path, TWO_ANSWER))
    assert served.call(served.models["pair"], CallSettings(temperature=1.0), [QUESTION])
    with pytest.raises(ConfigError, match="several agents answer"):
        served.call(served.models["pair"], CallSettings(temperature=1.0, samples=2), [QUESTION])


def test_a_call_reads_no_file_of_a_model(tmp_path: Path) -> None:
    """A server makes a call for every request: a configuration takes transformers milliseconds."""
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    served = fleet(model=str(folder))
    folder.rename(tmp_path / "gone")
    settings = CallSettings(temperature=0.0, max_new_tokens=8)
    assert served.call(served.models["sequential"], settings, [QUESTION]).questions == [QUESTION]
