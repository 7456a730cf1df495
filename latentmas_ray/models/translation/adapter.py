"""Trained maps of thoughts from one model's space to another's, in files.

A file is safetensors with one tensor `matrix` [E_A, E_B] in fp32 (E_A of the writer's model, E_B of the reader's). Its
metadata name both models and the revisions of their weights, so a map is used between the weights that it was trained
between, and nowhere else.
"""

import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from latentmas_ray.errors import ConfigError
from latentmas_ray.memory.wire import raw_bytes
from latentmas_ray.models.kv_spec import text_config
from latentmas_ray.models.load import load_config
from latentmas_ray.models.translation.embeddings import stored_revision
from latentmas_ray.paths import replacement_of

VERSION = "1"
_FIELD = "translation"
_KEY, _MATRIX = "latentmas_adapter", "matrix"
_TEXTS = ("writer", "reader", "writer_revision", "reader_revision")
_ENDING = "*.safetensors"
_WANTED = "give a file that examples/training/adapters has written, or a folder of such files"


@dataclass(frozen=True, kw_only=True)
class ThoughtAdapter:
    """A trained linear map of thoughts: e ↦ e M, which then gets the reader's mean embedding norm.

    `writer` and `reader` are the names that the models had, and the revisions those of `stored_revision`. `trained`
    says how it was made, as JSON; nothing depends on it.
    """

    matrix_AB: Tensor
    writer: str
    reader: str
    writer_revision: str
    reader_revision: str
    trained: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A digest of the matrix."""
        return xxhash.xxh3_64(raw_bytes(self.matrix_AB.contiguous()).data).hexdigest()

    def fits(self, writer: str, reader: str, reader_revision: str | None = None) -> bool:
        """Return whether it was trained between the weights of these models, each a name, folder or hub id. Reads all
        weights of both. Raises ModelError for a model without safetensors files."""
        if self.reader_revision != stored_revision(reader, reader_revision):
            return False
        return self.writer_revision == stored_revision(writer)


def save_adapter(adapter: ThoughtAdapter, path: Path) -> None:
    """Write the file of a map: after a crash it has the old content or the new one. Raises OSError."""
    metadata = {_KEY: VERSION, **{name: getattr(adapter, name) for name in _TEXTS}}
    metadata["trained"] = json.dumps(dict(adapter.trained))
    content = save({_MATRIX: adapter.matrix_AB.float().cpu().contiguous()}, metadata)
    with replacement_of(path, ".adapter-{}.new") as file:
        file.write(content)


def load_adapters(place: str) -> tuple[ThoughtAdapter, ...]:
    """Read the map in a file, or all maps in a folder. Raises ConfigError for what is neither, for a folder without
    one, and for a file that is no map."""
    path = Path(place)
    try:
        if path.is_dir():
            files = sorted(path.glob(_ENDING))
            if not files:
                raise ConfigError(_FIELD, place, f"the folder has no {_ENDING}; {_WANTED}")
            return tuple(map(_load, files))
        if not path.exists():
            raise ConfigError(_FIELD, place, f"there is no such file or folder; {_WANTED}")
    except OSError as error:
        raise ConfigError(_FIELD, place, f"it cannot be read: {error.strerror or error}") from error
    return (_load(path),)


def choose_adapter(
    adapters: Sequence[ThoughtAdapter],
    place: str,
    writer: str,
    reader: str,
    link: str,
    reader_revision: str | None = None,
) -> ThoughtAdapter:
    """Return the one that fits these two models, the places of a writer and of a reader that `link` names.

    Raises ConfigError if none of `adapters`, which were read from `place`, fits, or several do.
    """
    fitting = [adapter for adapter in adapters if adapter.fits(writer, reader, reader_revision)]
    if len(fitting) == 1:
        _check_sizes(fitting[0], place, writer, reader, reader_revision)
        return fitting[0]
    if fitting:
        expected = f"{len(fitting)} maps of the folder fit {link}; give the file of the one to use"
        raise ConfigError(_FIELD, place, expected)
    pairs = ", ".join(dict.fromkeys(f"{one.writer} to {one.reader}" for one in adapters))
    same_names = any((one.writer, one.reader) == (Path(writer).name, Path(reader).name) for one in adapters)
    why = ", with other weights of these models" if same_names else ""
    kind = "its maps are" if len(adapters) > 1 else "it maps"
    raise ConfigError(
        _FIELD, place, f"{kind} from {pairs}{why}, and {link}: give a map between these two, or leave it out"
    )


def _check_sizes(adapter: ThoughtAdapter, place: str, writer: str, reader: str, reader_revision: str | None) -> None:
    configs = (load_config(writer), load_config(reader, reader_revision))
    sizes = tuple(int(text_config(config).hidden_size) for config in configs)
    if (found := tuple(adapter.matrix_AB.shape)) != sizes:
        expected = f"the hidden sizes of {adapter.writer} and {adapter.reader} are {sizes}, and the map has {found}"
        raise ConfigError(_FIELD, place, f"{expected}; {_WANTED}")


def _load(path: Path) -> ThoughtAdapter:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise ConfigError(_FIELD, str(path), f"it is no regular file; {_WANTED}")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if (version := metadata.get(_KEY)) != VERSION:
                kind = "it is no trained map" if version is None else f"it has version {version}, not {VERSION}"
                raise ConfigError(_FIELD, str(path), f"{kind}; {_WANTED}")
            matrix: Tensor = file.get_tensor(_MATRIX).clone()
        texts = {name: metadata[name] for name in _TEXTS}
        trained = json.loads(metadata.get("trained", "{}"))
    except OSError as error:
        raise ConfigError(_FIELD, str(path), f"it cannot be read: {error.strerror or error}") from error
    except (SafetensorError, LookupError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(_FIELD, str(path), f"it is damaged or of another kind ({error}); {_WANTED}") from error
    if matrix.ndim != 2 or matrix.dtype != torch.float32 or not matrix.numel() or not bool(matrix.isfinite().all()):
        kind = f"it is {str(matrix.dtype).removeprefix('torch.')} {list(matrix.shape)}"
        expected = f"its matrix must be float32 with two dimensions and finite numbers, and {kind}; {_WANTED}"
        raise ConfigError(_FIELD, str(path), expected)
    return ThoughtAdapter(matrix_AB=matrix, trained=trained if isinstance(trained, dict) else {}, **texts)
