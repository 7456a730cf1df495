"""Model objects of one's own: used without being changed, sent as one copy of their weights, refused in one line."""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from latentmas_ray.engine.load import load_runner
from latentmas_ray.errors import ModelError
from latentmas_ray.models import attention, load_model
from latentmas_ray.models.given import GivenModel
from latentmas_ray.models.presets import tiny_model, tiny_tokenizer
from tests.numerics.families import FAMILIES, GQA
from tests.numerics.test_recompute import order

load = partial(load_runner, dtype="auto", device="auto", thoughts="realign")


def given(model: PreTrainedModel | None = None) -> GivenModel:
    return GivenModel(tiny_model(torch.float32) if model is None else model, tiny_tokenizer())


def sent(model: GivenModel) -> GivenModel:
    """As an actor gets it: its weights beside the pickle, and read-only."""
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(model, protocol=5, buffer_callback=buffers.append)
    assert len(text) < 500_000
    again = pickle.loads(text, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert isinstance(again, GivenModel)
    return again


def answer(model: GivenModel | str, cache: Path) -> object:
    return load(model, cache_dir=cache).run(order("judger", thinks="text"), {})[1].output_token_ids


def test_it_answers_as_the_same_weights_in_a_folder_do(tmp_path: Path) -> None:
    model = tiny_model(torch.float32)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    expected = answer(str(tmp_path / "model"), tmp_path)
    assert answer(given(model), tmp_path) == answer(sent(given(model)), tmp_path) == expected
    revision = load_model(str(tmp_path / "model")).spec.weights_revision
    assert given(model).weights_revision == sent(given(model)).load().spec.weights_revision == revision


def test_other_weights_of_one_shape_are_another_revision() -> None:
    model = tiny_model(torch.float32)
    before = given(model).load().spec
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    after = given(model).load().spec
    assert after.weights_revision != before.weights_revision
    assert before.difference(after) is not None


def test_the_object_is_not_changed() -> None:
    model = tiny_model(torch.float32).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lm = given(model).load()
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    assert lm.model.config._attn_implementation == attention.NAME
    assert not lm.model.training
    assert not any(weight.requires_grad for weight in lm.model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    ours = {weight.data_ptr() for weight in lm.model.parameters()}
    assert ours == {weight.data_ptr() for weight in model.parameters()}  # and its weights are not copied
    loss = model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss
    loss.backward()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_sent(family: str) -> None:
    kind, config = FAMILIES[family]
    model = kind(config()).to(torch.float32)
    model.set_attn_implementation("sdpa")
    own = given(model)
    here, there = own.load(), sent(own).load()
    assert here.spec == there.spec
    assert here.is_tied == there.is_tied
    assert len(list(here.model.parameters())) == len(list(there.model.parameters()))
    hidden = [lm.model(torch.tensor([[5, 6, 7]]), use_cache=False).logits for lm in (here, there)]
    assert torch.equal(*hidden)


def test_in_bfloat16_and_through_two_processes() -> None:
    own = given(tiny_model(torch.bfloat16))
    again = sent(sent(own))
    assert again.load().spec == own.load().spec
    assert again.load().spec.dtype == "bfloat16"


def test_its_name() -> None:
    model = tiny_model(torch.float32)
    assert given(model).name == "Qwen3ForCausalLM"
    model.config._name_or_path = "someone/model"
    assert given(model).name == given(model).load().name == sent(given(model)).name == "someone/model"


def with_flex_attention() -> PreTrainedModel:
    model = tiny_model(torch.float32)
    model.set_attn_implementation("flex_attention")
    return model


def empty() -> PreTrainedModel:
    with torch.device("meta"):
        return Qwen3ForCausalLM(Qwen3Config(**GQA))


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no model": (lambda: nn.Linear(2, 2), r"a torch.nn.modules.linear.Linear.*causal language model"),
    "a number": (lambda: 3, "a builtins.int"),
    "no tokenizer": (lambda: GivenModel(tiny_model(torch.float32), None), "tokenizer: got 'none'.*needs its tokenizer"),
    "its name": (lambda: GivenModel(tiny_model(torch.float32), "tiny"), "tokenizer: got 'tiny'"),  # type: ignore[arg-type]
    "flex attention": (with_flex_attention, "must be 'sdpa' or 'eager', not 'flex_attention'"),
    "no weights": (empty, "offloaded or empty"),
    "offloaded": (lambda: cpu_offload(tiny_model(torch.float32)), "offloaded or empty"),
    "another vocabulary": (lambda: Qwen3ForCausalLM(Qwen3Config(**{**GQA, "vocab_size": 50})), "tokenizer must fit"),
    "sparse layers": (
        lambda: Qwen3ForCausalLM(Qwen3Config(**GQA, layer_types=["compressed_sparse_attention"] * 2)),
        "compressed_sparse_attention",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_told_at_once_in_one_line(case: str) -> None:
    make, reason = REFUSED[case]
    with pytest.raises(ModelError, match=reason) as caught:
        GivenModel(make(), tiny_tokenizer())  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def test_what_a_run_cannot_have_of_it() -> None:
    own = given()
    own.check_run(runtime="ray", dtype="float32")
    for settings, reason in (
        ({"tp": 2}, "tp: got '2'; a model object cannot be divided"),
        ({"dtype": "bfloat16"}, "dtype: got 'bfloat16'; a model object keeps its own, which is float32"),
        ({"revision": "main"}, "revision: got 'main'"),
    ):
        with pytest.raises(ModelError, match=reason):
            own.check_run(**settings)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="float32"):
        own.load(dtype="bfloat16")


def test_what_cannot_be_sent() -> None:
    quantised, hooked = tiny_model(torch.float32), tiny_model(torch.float32)
    quantised.config.quantization_config = {"quant_method": "none"}
    hooked.lm_head._hf_hook = None  # type: ignore[assignment]
    for model, reason in ((quantised, "quantised"), (hooked, "spread over devices")):
        own = given(model)
        own.check_run(runtime="local")
        with pytest.raises(ModelError, match=reason):
            own.check_run(runtime="ray")
        with pytest.raises(ModelError, match=reason):
            pickle.dumps(own)
    assert given(quantised).load().spec.num_layers == 4


def test_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = given()
    assert own.load(device="cpu").device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="no CUDA device"):
        own.load(device="cuda")
