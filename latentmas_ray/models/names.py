"""Names of models: the embedded one, folders and hub ids. Needs neither torch nor transformers."""

from pathlib import Path

from latentmas_ray.config import EMBEDDED_MODEL
from latentmas_ray.errors import ModelError

EMBEDDED_FOLDER = Path(__file__).parent / "weights"


def check_name(name: str) -> None:
    """A cheap look before anything is started. Raises ModelError for a folder that cannot be a model, for a hub id
    that is neither in the local cache nor reachable, and for a model whose configuration rules it out."""
    if name == EMBEDDED_MODEL:
        return
    path = find_path(name)
    if path is None and name.startswith((".", "/", "~")):
        raise ModelError("model", name, "there is no such folder; give tiny, a model folder or a hub id")
    if path is not None and not (path / "config.json").is_file():
        raise ModelError("model", name, "it must be a folder with a config.json (a model saved by save_pretrained)")
    from latentmas_ray.models.load import check_configuration  # transformers takes seconds to import

    check_configuration(name)


def absolute_name(name: str) -> str:
    """The same model for a process with another working directory: a folder that is here gets its whole path."""
    path = None if name == EMBEDDED_MODEL else find_path(name)
    return name if path is None else str(path.absolute())


def find_path(name: str) -> Path | None:
    """The file or folder of this name, if there is one; the embedded model's own."""
    if name == EMBEDDED_MODEL:
        return EMBEDDED_FOLDER
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # too long for a file name; the home folder of nobody
        return None
