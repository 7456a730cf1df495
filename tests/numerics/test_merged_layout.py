"""Where the weights of a model go on machines with other GPUs than this one has: sizes are enough to decide it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from latentmas_ray.errors import ModelError
from latentmas_ray.models import load_model
from latentmas_ray.models.devices import place_weights, weights_bytes
from latentmas_ray.models.presets import tiny_model, tiny_tokenizer
from latentmas_ray.units import format_bytes
from tests.numerics.families import GQA


def empty_model(*, tied: bool) -> PreTrainedModel:
    """Eight layers, and embeddings that are half as large as all of them."""
    config = LlamaConfig(**{**GQA, "vocab_size": 1000, "num_hidden_layers": 8, "tie_word_embeddings": tied})
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def test_weights_are_counted_once_in_their_dtype() -> None:
    embeddings = 1000 * 64 * 2
    assert weights_bytes(empty_model(tied=False)) - weights_bytes(empty_model(tied=True)) == embeddings
    assert weights_bytes(tiny_model(torch.float32)) == 2 * weights_bytes(tiny_model(torch.bfloat16))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("shares", "gpu"), [([1.2], 0), ([1.2, 1.2, 1.2], 0), ([99, 1.2], 0), ([0.5, 1.2, 1.2], 1), ([1.0, 0.0, 1.2], 2)]
)
def test_what_fits_on_one_gpu_is_not_split(shares: list[float], gpu: int, tied: bool) -> None:
    model = empty_model(tied=tied)
    free = [int(share * weights_bytes(model)) for share in shares]
    assert place_weights(model, "m", free) == {"": gpu}


def test_no_other_gpu_is_looked_at_where_the_first_is_enough() -> None:
    def free_bytes() -> Iterator[int]:
        yield 10**9
        pytest.fail("a look at a GPU takes memory on it")

    assert place_weights(empty_model(tied=False), "m", free_bytes()) == {"": 0}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shares", [[0.8, 0.8], [0.5, 0.5, 0.5], [0.3, 0.6, 0.9], [0.9, 0.5]])
def test_what_does_not_fit_on_one_is_spread_over_gpus_alone(shares: list[float], tied: bool) -> None:
    model = empty_model(tied=tied)
    free = [int(share * weights_bytes(model)) for share in shares]
    place = place_weights(model, "m", free)
    assert len(set(place.values())) > 1
    used = dict.fromkeys(range(len(free)), 0)
    for key, weight in model.named_parameters():
        (gpu,) = {place[part] for part in place if f"{key}.".startswith(f"{part}.")}
        used[gpu] += weight.numel() * weight.element_size()
    assert all(used[gpu] <= 0.9 * free[gpu] for gpu in used)
    layers = [part for part in place if part.startswith("model.layers.")]
    assert {part.count(".") for part in layers} == {2}, "a layer is never split"


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [0.2] * 5])
def test_nothing_is_offloaded(shares: list[float]) -> None:
    model = empty_model(tied=False)
    needed = format_bytes(weights_bytes(model))
    with pytest.raises(ModelError, match=f"its weights need {needed}, and the GPUs .* or device cpu") as caught:
        place_weights(model, "some/model", [int(share * weights_bytes(model)) for share in shares])
    assert caught.value.value == "some/model"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("dtype", "counted"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_model_that_does_not_fit_is_told_before_its_weights_are_read(
    dtype: str, counted: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_model(torch.float32).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (100_000, 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda gpu: 50_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda gpu: 0)
    needed = format_bytes(weights_bytes(tiny_model(counted)))
    capfd.readouterr()
    with pytest.raises(ModelError, match=f"need {needed}, and the GPUs here have 135 KB for them"):
        load_model(str(tmp_path), dtype=dtype, device="cuda")
    assert capfd.readouterr() == ("", "")
