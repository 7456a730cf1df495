"""The folder holds what the file has, and what its header only names: digits are tokens of their own."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.real.conftest import LoadedModel


def test_every_digit_is_a_token_of_its_own(loaded: "LoadedModel") -> None:
    tokenizer = loaded.tokenizer
    for text in ("1974 cups", "He pays $60,000.", "x = 3.14159", "naïve 北京 😀 \n\n\t end ", "don't  stop"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert sum(map(str.isdigit, tokenizer.convert_ids_to_tokens(ids))) == sum(map(str.isdecimal, text))


def test_control_tokens_are_special_and_end_a_turn(loaded: "LoadedModel") -> None:
    tokenizer = loaded.tokenizer
    messages = [{"role": "user", "content": "Hello"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).splitlines()[-3:] == ["user", "Hello", "assistant"]
    assert tokenizer.decode([tokenizer.eos_token_id]) == "<|im_end|>"
    assert loaded.model.generation_config is not None
    assert loaded.model.generation_config.eos_token_id == tokenizer.eos_token_id == 2


def test_the_configuration_is_that_of_the_file(loaded: "LoadedModel", folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 100000.0}
    assert config["tie_word_embeddings"] is True
    assert loaded.model.num_parameters() == 134_515_008
