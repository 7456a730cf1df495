"""The embedded models: what is shipped, and that what it says depends on what it was told."""

from pathlib import Path
from typing import Any

import pytest

from examples.tiny_model.designs import DESIGNS
from latentmas_ray import LatentMAS
from latentmas_ray.config import EMBEDDED_MODELS
from latentmas_ray.models import load_model
from latentmas_ray.models.names import find_path, model_folder
from latentmas_ray.placement.model_dims import EMBEDDED

MAX_BYTES = {"tiny": 12_000_000, "small": 4_000_000, "tiny-latent": 2_600_000}
OF_ITS_OWN = ("tiny", "small")  # the others are stored as a difference
NUM_QUESTIONS = 32


def accuracy(**fields: Any) -> float:
    config: dict[str, Any] = {
        "task": "notes",
        "model": "tiny",
        "limit": NUM_QUESTIONS,
        "runtime": "local",
        "batch_size": 32,
    }
    with LatentMAS(**{**config, "temperature": 0.0, "max_new_tokens": 64, "latent_steps": 2, **fields}) as system:
        found = system.evaluate().accuracy
    assert found is not None
    return found


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_it_is_small_and_complete(name: str) -> None:
    folder, loaded = find_path(name), model_folder(name)
    assert folder is not None
    assert loaded is not None
    assert (folder / "README.md").is_file()
    assert {path.name for path in loaded.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_BYTES[name]


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_its_figures_are_those_of_its_weights(name: str) -> None:
    lm, dims = load_model(name), EMBEDDED[name]
    assert dims.num_parameters == sum(parameter.numel() for parameter in lm.model.parameters())
    assert (dims.num_layers, dims.hidden_size) == (lm.spec.num_layers, lm.spec.hidden_size)
    assert lm.spec.dtype == dims.dtype == "bfloat16"
    assert lm.model.get_input_embeddings().weight is not lm.model.get_output_embeddings().weight


@pytest.mark.parametrize("name", OF_ITS_OWN)
def test_its_tokenizer_is_the_one_that_training_makes(name: str) -> None:
    own, trained = load_model(name).chat.tokenizer, DESIGNS[name].train_tokenizer()
    assert own.get_vocab() == trained.get_vocab()
    assert own.chat_template == DESIGNS[name].template


def test_a_folder_of_its_name_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_model("small").name == "small"


@pytest.mark.parametrize("latent_steps", [2, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("topology", ["sequential", "hierarchical"])
def test_memory_carries_what_the_answer_needs(topology: str, latent_steps: int) -> None:
    assert accuracy(topology=topology, latent_steps=latent_steps) >= 0.8
    assert accuracy(topology=topology, latent_steps=latent_steps, memory="deranged") <= 0.45


@pytest.mark.parametrize("latent_steps", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_thoughts_do_not_confuse_an_agent_that_needs_no_memory(latent_steps: int) -> None:
    assert accuracy(task="chain", latent_steps=latent_steps) >= 0.8


def test_without_memory_the_answer_is_a_guess() -> None:
    assert accuracy(memory="none") <= 0.45


def test_one_agent_with_all_notes_and_with_a_word_problem() -> None:
    assert accuracy(method="single") >= 0.85
    assert accuracy(method="single", task="chain") >= 0.8


def test_the_second_model_does_the_same_tasks() -> None:
    assert accuracy(model="small", method="single") >= 0.8
    assert accuracy(model="small", method="single", task="chain") >= 0.7
    assert accuracy(model="small", topology="hierarchical") >= 0.8
    assert accuracy(model="small", topology="hierarchical", memory="deranged") <= 0.45


@pytest.mark.parametrize("topology", ["hierarchical", "sequential"])
@pytest.mark.parametrize(("experts", "answerer"), [("tiny", "small"), ("small", "tiny")])
def test_memory_of_one_model_carries_what_an_answer_of_the_other_needs(
    experts: str, answerer: str, topology: str
) -> None:
    team: dict[str, Any] = {"model": experts, "models": {"answerer": answerer}, "topology": topology}
    assert accuracy(**team) >= 0.75
    assert accuracy(**team, memory="deranged") <= 0.45


def test_the_model_that_reads_its_thoughts_gets_the_facts_from_them_alone() -> None:
    thoughts: dict[str, Any] = {"topology": "hierarchical", "memory": "latent-only", "latent_steps": 40}
    assert accuracy(model="tiny-latent", **thoughts) >= 0.7
    assert accuracy(model="tiny", **thoughts) <= 0.45
    assert accuracy(model="tiny-latent", topology="hierarchical", memory="deranged", latent_steps=40) <= 0.45


def test_a_wrong_memory_does_not_mislead_it() -> None:
    wrong: dict[str, Any] = {"task": "chain", "memory": "deranged", "latent_steps": 10}
    assert accuracy(model="tiny-latent", **wrong) >= 0.8
    assert accuracy(model="tiny", **wrong) <= 0.5


def test_its_files_differ_from_those_it_is_a_difference_to() -> None:
    own, base = load_model("tiny-latent"), load_model("tiny")
    assert own.spec.weights_revision != base.spec.weights_revision
    assert own.chat.tokenizer.get_vocab() == base.chat.tokenizer.get_vocab()
