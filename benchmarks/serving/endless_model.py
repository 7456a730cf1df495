"""A model that never ends its texts: every answer has as many tokens as are allowed."""

import json
from pathlib import Path

from latentmas_ray.errors import ModelError
from latentmas_ray.models.names import check_place, find_path

_NAMES_THE_END = {  # of its files, the key that names end tokens
    "config.json": "eos_token_id",
    "generation_config.json": "eos_token_id",
    "tokenizer_config.json": "eos_token",
}


def make_endless(model: str, folder: Path) -> str:
    """Make `folder` a copy of an embedded model or of a model's folder, without end tokens; return its name. Weights
    are links. Raises ModelError for a model that is neither."""
    check_place(model)
    source = find_path(model)
    if source is None:
        raise ModelError("model", model, "it must be tiny, small or a model's folder: a copy without an end is made")
    for file in sorted(one for one in source.iterdir() if one.is_file()):
        if (key := _NAMES_THE_END.get(file.name)) is None:
            (folder / file.name).symlink_to(file.resolve())
            continue
        values = json.loads(file.read_text())
        values.pop(key, None)
        (folder / file.name).write_text(json.dumps(values))
    return str(folder)
