"""Every id that a tokenizer or a configuration knows has an embedding, and every end token of any file ends a turn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2ForCausalLM

from latentmas_ray.cli.main import main
from latentmas_ray.errors import ModelError
from latentmas_ray.models import load_model, wrap
from latentmas_ray.models.given import GivenModel
from latentmas_ray.models.presets import tiny_tokenizer
from tests.numerics.families import BASE, GQA

NUM = 259


def model_of(**changes: Any) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return LlamaForCausalLM(LlamaConfig(**{**GQA, **changes}))


def adding(*tokens: str, special: bool = True) -> Callable[[PreTrainedTokenizerFast], None]:
    def add(tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.add_tokens(list(tokens), special_tokens=special)

    return add


def turns(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}\n{% endfor %}<|turn|>assistant\n"
    )


def own_pad(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})


def own_end(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens({"eos_token": "</s>"})


TOKENIZERS: dict[str, tuple[Callable[[PreTrainedTokenizerFast], None], int]] = {
    "in the template": (turns, 259),
    "special, never used": (adding("<tool>"), 259),
    "added as a word": (adding("antidisestablishmentarianism", special=False), 259),
    "several": (adding("<a>", "<b>", "<c>"), 261),
    "a pad token": (own_pad, 259),
    "an end token": (own_end, 259),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_token_beyond_the_embeddings_is_told_with_both_numbers(case: str, tmp_path: Path) -> None:
    change, highest = TOKENIZERS[case]
    tokenizer, model = tiny_tokenizer(), model_of()
    change(tokenizer)
    expected = rf"its tokenizer must fit: token {highest} \(.*\), but the model has 259 embeddings, 0 to 258"
    for build in (lambda: wrap(model, tokenizer, "mine"), lambda: GivenModel(model, tokenizer)):
        with pytest.raises(ModelError, match=expected) as caught:
            build()
        assert "\n" not in str(caught.value)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=expected):
        load_model(str(tmp_path))


@pytest.mark.parametrize("case", TOKENIZERS)
def test_resized_embeddings_hold_all_tokens(case: str) -> None:
    change, highest = TOKENIZERS[case]
    tokenizer = tiny_tokenizer()
    change(tokenizer)
    lm = wrap(model_of(vocab_size=highest + 1), tokenizer, "mine")
    assert lm.num_embeddings == highest + 1


@pytest.mark.parametrize("where", ["config", "generation_config"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("bos_token_id", "eos_token_id", "pad_token_id") for value in (259, 32_000)),
        ("eos_token_id", [2, 259]),
        ("eos_token_id", [300, 2]),
    ],
)
def test_a_configured_id_beyond_the_embeddings_is_told(where: str, key: str, value: Any) -> None:
    model = model_of()
    setattr(getattr(model, where), key, value)
    top = max(value) if isinstance(value, list) else value
    kind = "" if where == "config" else "generation "
    expected = rf"its {kind}{key} must be one of its 259 embeddings, 0 to 258; it is {top}"
    with pytest.raises(ModelError, match=expected):
        wrap(model, tiny_tokenizer(), "mine")
    with pytest.raises(ModelError, match=expected):
        GivenModel(model, tiny_tokenizer())


def test_the_last_embedding_and_no_token_are_good_ids() -> None:
    model = model_of(eos_token_id=[2, 258], pad_token_id=None)
    model.generation_config.pad_token_id = -1  # none, in files of old versions
    assert wrap(model, tiny_tokenizer(), "mine").chat.stop_ids == {2, 258}


@pytest.mark.parametrize(
    ("config", "generation", "stops"),
    [
        (7, 7, {2, 7}),
        (7, 8, {2, 7, 8}),
        (None, [8, 9], {2, 8, 9}),
        ([7, 8], None, {2, 7, 8}),
        (None, None, {2}),
        ([7], [8, 9], {2, 7, 8, 9}),
        (2, [7, 2], {2, 7}),
    ],
)
def test_the_end_tokens_of_all_files_stop(config: Any, generation: Any, stops: set[int]) -> None:
    model = model_of(eos_token_id=config)
    model.generation_config = GenerationConfig(eos_token_id=generation)
    assert wrap(model, tiny_tokenizer(), "mine").chat.stop_ids == stops


def test_a_model_without_any_end_token_has_none() -> None:
    tokenizer, model = tiny_tokenizer(), model_of(eos_token_id=None)
    tokenizer.eos_token = None
    model.generation_config = GenerationConfig()
    assert wrap(model, tokenizer, "mine").chat.stop_ids == frozenset()


def test_the_command_ends_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = tiny_tokenizer()
    turns(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    model_of().save_pretrained(tmp_path)
    capfd.readouterr()
    args = [
        "ask",
        "2+2?",
        "--model",
        str(tmp_path),
        "--runtime",
        "local",
        "--method",
        "single",
        "--max-new-tokens",
        "4",
    ]
    assert main(args) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    assert "token 259 ('<|turn|>'), but the model has 259 embeddings" in err


def yarn(**changes: Any) -> dict[str, Any]:
    return {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512, **changes}


LENGTHS: dict[str, tuple[dict[str, Any], int, int]] = {  # RoPE, max_position_embeddings, positions
    "default": ({"rope_type": "default", "rope_theta": 1e4}, 512, 512),
    "yarn with the old length": (yarn(), 512, 2048),
    "yarn with the new length": (yarn(), 2048, 2048),
    "yarn of a broken factor": (yarn(factor=2.5), 512, 1280),
    "yarn that stretches nothing": (yarn(factor=1.0), 512, 512),
    "yarn from a shorter length": (yarn(original_max_position_embeddings=256), 512, 1024),
    "yarn without the old length": (yarn(original_max_position_embeddings=None), 512, 2048),
    "linear": ({"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, 512, 2048),
    "linear by a whole number": ({"rope_type": "linear", "rope_theta": 1e4, "factor": 8}, 256, 2048),
    "llama3": (
        {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
        2048,
        2048,
    ),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_a_stretched_model_has_the_positions_that_its_factor_makes(case: str, tmp_path: Path) -> None:
    rope, stored, positions = LENGTHS[case]
    rope = {key: value for key, value in rope.items() if value is not None}
    model = model_of(max_position_embeddings=stored, rope_parameters=rope)
    assert wrap(model, tiny_tokenizer(), "mine").max_positions == positions
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).max_positions == positions


def test_the_form_of_older_files_is_read_too(tmp_path: Path) -> None:
    model_of(max_position_embeddings=512).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters")
    config |= {
        "rope_theta": 1e4,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    }
    path.write_text(json.dumps(config))
    assert load_model(str(tmp_path)).max_positions == 2048


def test_a_long_question_fits_a_stretched_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = Qwen2ForCausalLM.config_class(
        **{**BASE, "num_key_value_heads": 2, "max_position_embeddings": 512}, rope_parameters=yarn()
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    question = " ".join(map(str, range(150)))
    args = ["ask", question, "--model", str(tmp_path / "model"), "--runtime", "local", "--method", "single"]
    assert main([*args, "--max-new-tokens", "8"]) == 0, capfd.readouterr().err
