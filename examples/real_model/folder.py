"""Where the model's folders are, and how one comes to be: whole, or not there.

A folder is written next to its place and renamed when all of it is on disk. Its `conversion.json` names its files with
their sizes; a folder that differs is made again. One process at a time makes folders.
"""

import contextlib
import fcntl
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

from latentmas_ray.env import read_environment
from latentmas_ray.errors import RunError
from latentmas_ray.paths import replacement_of, sync_folder

ModelDtype = Literal["float32", "bfloat16"]
DTYPES: tuple[ModelDtype, ...] = get_args(ModelDtype)

NAME = "SmolLM2-135M-Instruct"
FORM = 1  # of what is written into a folder: another number makes all folders again
MANIFEST = "conversion.json"
_PARTIAL = ".partial"


def real_model_folder() -> Path:
    """Return the folder of all that this example keeps, in the user's cache. Raises ConfigError."""
    return read_environment().cache_dir / "real_model"


def model_folder(dtype: ModelDtype, home: Path) -> Path:
    """Return the place of the model in this dtype; it may not be there."""
    return home / f"{NAME}-{dtype}"


def is_whole(folder: Path) -> bool:
    """Whether a folder has every file that its conversion wrote, with its size. Reads no weights."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["form"] == FORM and all(
            (folder / name).stat().st_size == num_bytes for name, num_bytes in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def obstacle(home: Path) -> str | None:
    """Return why tests cannot use the model in float32, or None."""
    folder = model_folder("float32", home)
    return None if is_whole(folder) else f"the model {NAME} is not in {folder} (make real)"


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Make the folder of all models, and keep other processes from writing there. Removes what a killed one left.

    Raises RunError if another process writes there now, and OSError.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another process is making a model in {home}; wait until it has ended") from None
        for left in home.glob(f"*{_PARTIAL}"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a new folder, then put it in the place of `folder`. On any error `folder` is as it was.

    Call it within `alone`. Raises what `write` raises, and OSError.
    """
    partial = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}{_PARTIAL}")
    partial.mkdir()
    try:
        write(partial)
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        with replacement_of(partial / MANIFEST, ".{}" + _PARTIAL) as file:
            file.write(json.dumps({"form": FORM, "files": sizes}, indent=1).encode() + b"\n")
        if folder.exists():
            old = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}{_PARTIAL}")
            folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
