"""The embedded model: what is shipped, and that what it says depends on what it was told."""

from pathlib import Path

import pytest

from examples.tiny_model.tokens import train_tokenizer
from latentmas_ray import LatentMAS
from latentmas_ray.models import load_model
from latentmas_ray.models.names import EMBEDDED_FOLDER
from latentmas_ray.placement.model_dims import TINY

MAX_BYTES = 12_000_000
NUM_QUESTIONS = 32


def accuracy(**fields: str | int) -> float:
    config = {"task": "notes", "model": "tiny", "limit": NUM_QUESTIONS, "runtime": "local", "batch_size": 32}
    with LatentMAS(**{**config, "temperature": 0.0, "max_new_tokens": 64, "latent_steps": 2, **fields}) as system:
        found = system.evaluate().accuracy
    assert found is not None
    return found


def test_it_is_small_and_complete() -> None:
    files = {path.name for path in EMBEDDED_FOLDER.iterdir()}
    assert files >= {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert sum(path.stat().st_size for path in EMBEDDED_FOLDER.iterdir()) <= MAX_BYTES


def test_its_figures_are_those_of_its_weights() -> None:
    lm = load_model("tiny")
    assert TINY.num_parameters == sum(parameter.numel() for parameter in lm.model.parameters())
    assert lm.spec.dtype == TINY.dtype == "bfloat16"
    assert lm.model.get_input_embeddings().weight is not lm.model.get_output_embeddings().weight


def test_its_tokenizer_is_the_one_that_training_makes() -> None:
    assert load_model("tiny").chat.tokenizer.get_vocab() == train_tokenizer().get_vocab()


def test_a_folder_named_tiny_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_model("tiny").name == "tiny"


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
