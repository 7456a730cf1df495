"""Model names: the embedded models, folders and hub ids. Needs neither torch nor transformers."""

import json
import re
import stat
from pathlib import Path

from latentmas_ray.config import EMBEDDED_MODEL, EMBEDDED_MODELS
from latentmas_ray.errors import ModelError
from latentmas_ray.paths import expand_home

_WEIGHTS = Path(__file__).parent / "weights"
EMBEDDED_FOLDER = _WEIGHTS / EMBEDDED_MODEL
MODEL_CHOICES = f"{', '.join(EMBEDDED_MODELS)}, a model folder or a hub id"  # of the messages that refuse a name
_BASES = {"tiny-latent": EMBEDDED_MODEL}  # of embedded models that are stored as a difference to another
_MAX_HUB_ID_CHARS = 96
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_FILE_ENDING = re.compile(r"\.(safetensors|bin|gguf|ggml|pt|pth|ckpt|onnx|json|zip|gz|tar)", re.I)


def check_name(name: str, revision: str | None = None) -> None:
    """Check a model's name and configuration cheaply, before anything is started.

    Raises ModelError for a folder without a model, for a hub id or revision that is neither in the local cache nor on
    the hub, for a revision of a model that has none, and for a model that cannot collaborate.
    """
    check_place(name, revision)
    if name in EMBEDDED_MODELS:
        return
    from latentmas_ray.models.load import check_configuration  # transformers takes seconds to import

    check_configuration(name, revision)


def check_place(name: str, revision: str | None = None) -> None:
    """Check that a name can be that of a model; reads nothing but the list of a folder's files, and does not query the
    hub. Raises ModelError."""
    path = find_path(name)
    if revision is not None and path is not None:
        kind = f"the embedded model {name}" if name in EMBEDDED_MODELS else f"{name} is a folder, and"
        raise ModelError("revision", revision, f"{kind} has no revisions; leave it out, or give the model's hub id")
    if name in EMBEDDED_MODELS:
        return
    if path is None and not _may_be_on_hub(name):
        raise ModelError("model", name, f"there is no such folder; give {MODEL_CHOICES}")
    if path is not None:
        _check_folder(path, name)


def _may_be_on_hub(name: str) -> bool:
    """Whether a name that is no folder here can be a hub id; the hub is not queried for a mistyped path."""
    is_id = len(name) <= _MAX_HUB_ID_CHARS and _HUB_ID.fullmatch(name) is not None
    return is_id and not _FILE_ENDING.fullmatch(Path(name).suffix) and not Path(name).is_symlink()


def _check_folder(path: Path, name: str) -> None:
    """Raises ModelError unless `path` may be a model folder; transformers would wait for the writer of a pipe."""
    expected = "it must be a folder with a config.json (a model saved by save_pretrained)"
    try:
        if not (path / "config.json").is_file():
            raise ModelError("model", name, expected)
        for entry in path.iterdir():
            if entry.exists() and not (entry.is_file() or entry.is_dir()):
                kind = "a named pipe" if stat.S_ISFIFO(entry.stat().st_mode) else "a socket or a device"
                raise ModelError("model", name, f"its files must be regular ones; {entry.name} is {kind}")
    except OSError as error:
        raise ModelError("model", name, f"{expected}: {error.strerror or error}") from error


def known_positions(name: str, revision: str | None = None) -> int | None:
    """The number of positions of a model that `check_name` has accepted, from its configuration alone; None without a
    limit. Raises ModelError."""
    if name in EMBEDDED_MODELS:
        return int(
            json.loads((_WEIGHTS / _BASES.get(name, name) / "config.json").read_text())["max_position_embeddings"]
        )
    from latentmas_ray.models.kv_spec import max_positions
    from latentmas_ray.models.load import load_config

    return max_positions(load_config(name, revision))


def known_states(name: str, revision: str | None = None) -> bool:
    """Whether layers of a model that `check_name` has accepted keep states, from its configuration alone. Raises
    ModelError."""
    if name in EMBEDDED_MODELS:
        return False
    from latentmas_ray.models.kv_spec import keeps_states
    from latentmas_ray.models.load import load_config

    return keeps_states(load_config(name, revision))


def known_window(name: str, revision: str | None = None) -> int | None:
    """The largest sliding window of a model that `check_name` has accepted, if all of its layers have one, from its
    configuration alone; else None. Raises ModelError."""
    if name in EMBEDDED_MODELS:
        return None
    from latentmas_ray.models.kv_spec import largest_window
    from latentmas_ray.models.load import load_config

    return largest_window(load_config(name, revision))


def absolute_name(name: str) -> str:
    """The name for processes with another working directory: folders become absolute paths."""
    path = None if name in EMBEDDED_MODELS else find_path(name)
    return name if path is None else str(path.absolute())


def model_folder(name: str) -> Path | None:
    """The file or folder from which a model of this name is loaded, or None if there is none: that of `find_path`, and
    of an embedded model that is stored as a difference the decoded one. Raises ModelError."""
    if name not in _BASES:
        return find_path(name)
    from latentmas_ray.models.weight_difference import decoded_folder  # needs torch

    return decoded_folder(name, _WEIGHTS / _BASES[name], _WEIGHTS / name)


def find_path(name: str) -> Path | None:
    """The file or folder of this name (for an embedded model its folder); None if there is none. Raises ModelError for
    the home folder of an unknown user."""
    if name in EMBEDDED_MODELS:
        return _WEIGHTS / name
    path = Path(expand_home("model", name, ModelError))
    try:
        return path if path.exists() else None
    except OSError:  # too long for a file name
        return None
