"""Where the working memory of every question is saved, a file each."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from latentmas_ray.config import is_url
from latentmas_ray.errors import ConfigError, RunError
from latentmas_ray.runs.results import Answer, Failure

Item = TypeVar("Item", bound=Answer | Failure)
_MAX_NAME_CHARS = 150  # of a file; a longer id is cut, and its digest keeps it apart from others


class MemoryFolder:
    """A folder of memory files, or none."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @classmethod
    def of(cls, save_memory: str | None) -> "MemoryFolder":
        """The folder of that name, made if it is not there, readable by its owner alone. Raises ConfigError."""
        if save_memory is None:
            return cls(None)
        if is_url(save_memory):
            raise ConfigError("save_memory", save_memory, "it must be a folder on this machine")
        try:
            folder = Path(save_memory).expanduser()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: the home folder of an unknown user
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError("save_memory", save_memory, f"it must be a folder to write to: {reason}") from error
        return cls(folder)

    def save(self, result: Item, *, keeps: bool) -> Item:
        """The same result, whose memory is in its file now; unless the caller `keeps` it, the result is without it.

        Raises RunError if the disk refuses.
        """
        if not isinstance(result, Answer) or result.memory is None:
            return result
        if self._folder is not None:
            path = self._folder / file_name(result.id)
            try:
                result.memory.save(path)
            except OSError as error:
                raise RunError(f"the memory cannot be written to {path}: {error.strerror or error}") from error
        return result if keeps else replace(result, returned_memory=None)


def file_name(question_id: str) -> str:
    """A file name of its own for every question id, the id itself where that is a plain name."""
    name = quote(question_id.encode("utf-8", "surrogatepass"), safe=" ,=@+#")
    if len(name) > _MAX_NAME_CHARS or name.startswith("."):
        digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        name = f"{name[:_MAX_NAME_CHARS].lstrip('.')}-{digest}"
    return f"{name}.safetensors"
