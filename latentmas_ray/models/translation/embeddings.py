"""The embeddings of a model that is not loaded, two tensors of its files, and a digest of all of them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
import xxhash
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils import cached_file

from latentmas_ray.errors import ModelError
from latentmas_ray.memory.wire import raw_bytes
from latentmas_ray.models.load import load_config, location_of, translated
from latentmas_ray.models.names import check_name

_ONE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class WriterEmbeddings:
    """E_in and E_out [V, E] of a model, on the CPU in the dtype of its files; the same tensor if they are tied."""

    input_VE: Tensor
    output_VE: Tensor

    @cached_property
    def revision(self) -> str:
        """A digest of both, which identifies the maps that are made of them."""
        digest = xxhash.xxh3_128()
        for tensor in (self.input_VE, self.output_VE):
            digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(raw_bytes(tensor.contiguous()).data)
        return digest.hexdigest()


def load_embeddings(name: str, revision: str | None = None) -> WriterEmbeddings:
    """Read the embeddings of an embedded model, a model folder or a hub id; nothing else of its weights is read.

    Raises ModelError for a model without safetensors files, or whose files lack the tensors.
    """
    config = load_config(name, revision)
    with translated(name, "its embeddings must load from its safetensors files"):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        files = _WeightFiles(name, revision)
        inputs = files.read(_names_of(model, model.get_input_embeddings()))
        outputs = None if config.tie_word_embeddings else files.read(_names_of(model, model.get_output_embeddings()))
        if inputs is None or (outputs is None and not config.tie_word_embeddings):
            which = "input" if inputs is None else "output"
            raise ModelError("model", name, f"its safetensors files must have its {which} embeddings")
    return WriterEmbeddings(inputs, inputs if outputs is None else outputs)


def stored_revision(name: str, revision: str | None = None) -> str:
    """Return a digest of all tensors in the safetensors files of `tiny` or `small`, a model folder or a hub id: the
    same however they are divided into files, and in whatever format a run loads them.

    Reads all weights, once for files that do not change. Raises ModelError for a model without such files.
    """
    check_name(name, revision)
    with translated(name, "its weights must be in safetensors files"):
        paths = _WeightFiles(name, revision).paths()
        return _digest(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths))


@lru_cache(maxsize=64)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """Return a digest of the tensors in files with these paths, sizes and times of change."""
    places: dict[str, str] = {}
    for path, *_ in files:
        with safe_open(path, framework="pt") as file:
            places |= dict.fromkeys(file.keys(), path)
    digest = xxhash.xxh3_128()
    for key, path in sorted(places.items()):
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(key)
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(raw_bytes(tensor.contiguous()).data)
    return digest.hexdigest()


def _names_of(model: nn.Module, module: nn.Module) -> list[str]:
    return [name for name, one in model.named_parameters(remove_duplicate=False) if one is module.weight]


class _WeightFiles:
    """The safetensors files of a model. Of a model in several files, its index says which are fetched."""

    def __init__(self, name: str, revision: str | None) -> None:
        self._location, self._revision = location_of(name), revision
        try:
            places = json.loads(self._fetch(_INDEX).read_text(encoding="utf-8"))["weight_map"]
        except OSError:  # a model in one file; anything else that is wrong shows here
            with safe_open(self._fetch(_ONE_FILE), framework="pt") as file:
                places = dict.fromkeys(file.keys(), _ONE_FILE)
        self._places: Mapping[str, str] = places

    def read(self, names: Iterable[str]) -> Tensor | None:
        """The first of these tensors that there is; None without any. Files of a model without its head leave out the
        first part of the names."""
        for wanted in names:
            for key, file_name in self._places.items():
                if key == wanted or wanted.endswith(f".{key}") or key.endswith(f".{wanted}"):
                    with safe_open(self._fetch(file_name), framework="pt") as file:
                        tensor: Tensor = file.get_tensor(key)
                    return tensor
        return None

    def paths(self) -> list[Path]:
        """All its files."""
        return [self._fetch(file_name) for file_name in sorted(set(self._places.values()))]

    def _fetch(self, file_name: str) -> Path:
        return Path(str(cached_file(self._location, file_name, revision=self._revision)))
