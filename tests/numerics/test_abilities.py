"""`latentmas doctor --model` says before a run what a model can do, and loads no weights for it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig, Qwen2MoeConfig

from latentmas_ray.cli.main import main
from latentmas_ray.engine.engine import Engine
from latentmas_ray.models import load_model
from latentmas_ray.models.abilities import find_abilities
from latentmas_ray.models.abilities.shrink import shrink
from latentmas_ray.models.presets import tiny_tokenizer
from tests.numerics.families import GQA
from tests.numerics.sweep.listing import all_families
from tests.numerics.sweep.random_models import random_model, save, small_config
from tests.numerics.turns import prompts_of, think

LARGE = LlamaConfig(
    hidden_size=8192,
    intermediate_size=28_672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    vocab_size=128_256,
    max_position_embeddings=8192,
    dtype="bfloat16",
    architectures=["LlamaForCausalLM"],
)


def folder_of(config: PretrainedConfig, folder: Path) -> str:
    """A model folder without weights."""
    config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def asked(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    capfd.readouterr()
    assert main(["doctor", "--json", *arguments]) == code
    said: dict[str, Any] = json.loads(capfd.readouterr().out)
    return said


def test_70_billion_parameters_without_their_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = asked(capfd, "--model", folder_of(LARGE, tmp_path))
    assert said["works"] is said["chains"] is said["merges"] is True
    assert said["kv_bytes_per_token"] == 2 * 80 * 8 * 128 * 2
    assert (said["dtype"], said["num_layers"], said["max_positions"]) == ("bfloat16", 80, 8192)
    assert said["tp"] == [1, 2, 4, 8]
    assert said["vllm"] is True
    assert asked(capfd, "--model", str(tmp_path), "--dtype", "float32")["kv_bytes_per_token"] == 2 * 80 * 8 * 128 * 4


# Keys and values, windows, latent attention, states next to attention, and states in most layers.
@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "deepseek_v3", "falcon_h1", "qwen3_next"])
def test_the_stated_bytes_are_those_of_the_loaded_model(family: str, tmp_path: Path) -> None:
    config = small_config(all_families()[family])
    save(random_model(config), config, tmp_path)
    found, loaded = find_abilities(str(tmp_path)), load_model(str(tmp_path), device="cpu")
    assert found.spec is not None
    assert [layer.shape for layer in found.spec.layers] == [layer.shape for layer in loaded.spec.layers]
    assert found.spec.windows == loaded.spec.windows
    assert found.spec.bytes_per_token == loaded.spec.bytes_per_token
    assert found.spec.state_bytes == loaded.spec.state_bytes
    assert found.max_positions == loaded.max_positions
    segment = think(Engine(loaded, thoughts="identity", cache_dir=tmp_path), prompts_of([5, 9]), 2)
    assert segment.meta.num_bytes == 18 * found.spec.bytes_per_token + 2 * found.spec.state_bytes


def test_the_embedded_model_as_a_table(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "tiny"]) == 0
    out = capfd.readouterr().out
    for words in ("Qwen3ForCausalLM, 4 layers", "chains", "merges", "2.05 KB", "32,768", "1, 2", "vLLM"):
        assert words in out


def test_the_table_fits_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = small_config(all_families()["falcon_h1"])
    save(random_model(config), config, tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["doctor", "--model", str(tmp_path)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert "complete, with the shapes of its configuration" in " ".join(" ".join(lines).split())


def test_experts_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = Qwen2MoeConfig(**GQA, num_experts=60, num_experts_per_tok=4, moe_intermediate_size=32)
    assert asked(capfd, "--model", folder_of(config, tmp_path))["num_experts"] == 60


def test_a_model_that_cannot_collaborate_is_exit_code_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=4), tmp_path)
    said = asked(capfd, "--model", folder, code=1)
    assert said["works"] is False
    assert "rotary positions" in said["reason"]
    assert main(["doctor", "--model", folder]) == 1
    assert "cannot collaborate: it must use rotary positions" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--model", "no/such/folder"), "--model: got 'no/such/folder'; "),
        (("--model", "{empty}"), "it must be a folder with a config.json"),
        (("--model", "{broken}"), "--model: got "),
        (("--model", "{without_tokenizer}"), "its tokenizer must"),
        (("--model", "tiny", "--dtype", "int3"), "--dtype: got 'int3'; it must be one of auto, float32, bfloat16"),
        (("--model", "tiny", "--revision", "main"), "--revision: got 'main'; the embedded model tiny has no revisions"),
        (("--model", "tiny", "--address", "a:1"), "--address: got 'a:1'; with --model nothing is looked for"),
        (("--dtype", "float32"), "--dtype: got 'float32'; it says how to read a model: give --model"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = {name: tmp_path / name for name in ("empty", "broken", "without_tokenizer")}
    for folder in folders.values():
        folder.mkdir()
    (folders["broken"] / "config.json").write_text("{")
    LARGE.save_pretrained(folders["without_tokenizer"])
    given = [argument.format(**{name: str(folder) for name, folder in folders.items()}) for argument in arguments]
    assert main(["doctor", *given]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert line in err
    assert len(err.strip().splitlines()) == 1


def test_a_small_configuration_has_every_kind_of_layer() -> None:
    for name in ("gemma3_text", "qwen3_next", "deepseek_v3", "gpt_oss"):
        config = all_families()[name].config_class()
        small = shrink(config)
        for kinds in ("layer_types", "mlp_layer_types"):
            assert set(getattr(small, kinds, None) or ()) == set(getattr(config, kinds, None) or ()), name
        assert small.num_hidden_layers <= 4
        assert len(getattr(small, "layer_types", None) or [0] * small.num_hidden_layers) == small.num_hidden_layers
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(small)
        assert sum(weight.numel() for weight in model.parameters()) < 500_000, name
