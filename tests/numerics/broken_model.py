"""A model whose prompts can be read and whose thoughts cannot: the embedding of one token that nobody uses is not a
number, and with it the mean norm that thoughts are rescaled to."""

from pathlib import Path

import torch

from tests.numerics.families import make_lm


def save_broken_model(folder: Path) -> str:
    """As a folder that `--model` takes."""
    lm = make_lm("qwen3")
    lm.model.get_input_embeddings().weight.data[0] = torch.nan
    lm.model.save_pretrained(folder)
    lm.chat.tokenizer.save_pretrained(folder)
    return str(folder)
