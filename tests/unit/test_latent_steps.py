"""The forms of a number of latent steps, in a configuration and in a topology."""

import pickle

import pytest

from latentmas_ray.bench.answer.settings import AnswerBenchSettings
from latentmas_ray.bench.transfer_settings import TransferBenchSettings
from latentmas_ray.config import LatentSteps, latent_steps_of, make_config, most_steps
from latentmas_ray.config.latent_steps import CONVERGED
from latentmas_ray.config.run import stored_fields
from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.placement.memory_estimate import Workload
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.topology.agent import Agent, Topology

FILL = MAX = CONVERGED
FORMS = [
    (0, 0, LatentSteps(0)),
    ("40", 40, LatentSteps(40)),
    (" 7 ", 7, LatentSteps(7)),
    ("auto", "fill:40", LatentSteps(40, FILL, fills=True)),
    ("auto:0.99", "fill:40:0.99", LatentSteps(40, 0.99, fills=True)),
    ("fill:80", "fill:80", LatentSteps(80, FILL, fills=True)),
    (f"fill:80:{FILL}", "fill:80", LatentSteps(80, FILL, fills=True)),
    ("max:40", "max:40", LatentSteps(40, MAX)),
    ("max:080:.5", "max:80:0.5", LatentSteps(80, 0.5)),
]
WRONG = ["auto:2", "auto:1.0", "auto:0", "auto:", "auto:x", "max", "max:0", "max:x", "max:-1", "max:100001", "fill:0"]
WRONG += ["max:40:", "max:40:1.5", "max:40:0.5:1", "maximum:3", "Auto:0.9", "fill", "max:٣", "many", "-1"]


@pytest.mark.parametrize(("given", "stored", "meaning"), FORMS)
def test_forms_in_a_configuration(given: object, stored: object, meaning: LatentSteps) -> None:
    config = make_config({"latent_steps": given})
    assert config.latent_steps == stored
    assert latent_steps_of(config.latent_steps) == meaning
    assert most_steps(config.latent_steps) == meaning.most
    again = make_config(stored_fields(config.model_dump()))
    assert again == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.identity()["latent_steps"] == stored  # a run that is resumed must have the same


@pytest.mark.parametrize(("given", "stored", "meaning"), [form for form in FORMS if not str(form[0]).strip().isdigit()])
def test_forms_in_a_topology(given: object, stored: object, meaning: LatentSteps) -> None:
    text = f"name: t\nagents:\n- {{name: a, prompt: x, latent_steps: '{given}'}}\n"
    topology = Topology.parse(text + "- {name: b, prompt: y, thinks: text, reads: a}\n")
    assert topology.agents[0].latent_steps == stored
    assert Topology.parse(topology.to_yaml()) == topology


def test_the_default_is_one_number_everywhere() -> None:
    """What plans and benches reckon with is what a run thinks, so one number has to be changed."""
    others = (DriverSettings(), Workload(), TransferBenchSettings(), AnswerBenchSettings())
    assert {make_config({}).latent_steps, *(one.latent_steps for one in others)} == {5}


@pytest.mark.parametrize("given", [*WRONG, True, -1, 100_001, 1.5, [3]])
def test_what_is_no_number_of_steps(given: object) -> None:
    with pytest.raises(ConfigError, match=r"^latent_steps: got .*; it must be a .*number"):
        make_config({"latent_steps": given})
    with pytest.raises(TopologyError, match=r"^agents\.a\.latent_steps: got .*; it must be a whole number from 0 to"):
        Agent(name="a", prompt="x", latent_steps=given)  # type: ignore[arg-type]
