"""Whether the weights of a model folder are those of its configuration, from the headers of their files alone."""

import torch

from latentmas_ray.models.load import load_weights, read_config
from latentmas_ray.models.names import model_folder

_ENDINGS = (".safetensors", ".bin", ".index.json")


def check_weights(name: str) -> str:
    """Compare the names and shapes of a folder's weights with its configuration. Returns what was found, in a few
    words. Raises ModelError for weights that are incomplete, of other shapes, or damaged."""
    path = model_folder(name)
    if path is None:
        return "not looked at: of a hub id they would be fetched"
    if not any(one.name.endswith(_ENDINGS) for one in path.iterdir()):
        return "none in this folder: a run needs them"
    if getattr(read_config(name), "quantization_config", None) is not None:
        return "not looked at: they are quantised"
    load_weights(name, "auto", {"device_map": {"": torch.device("meta")}}, None)
    return "complete, with the shapes of its configuration"
