"""One loaded model for all tests of this folder; those on Ray share the cluster of `tests/conftest.py`."""

from pathlib import Path
from typing import NamedTuple

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from examples.real_model.folder import model_folder


class LoadedModel(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@pytest.fixture(scope="session")
def folder(user_cache: Path) -> Path:
    return model_folder("float32", user_cache / "real_model")


@pytest.fixture(scope="session")
def loaded(folder: Path) -> LoadedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False)
    return LoadedModel(model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
