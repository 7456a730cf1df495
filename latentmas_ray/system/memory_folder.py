"""Saves the working memory of each question to a file."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from latentmas_ray.config import is_url
from latentmas_ray.errors import ConfigError, RunError
from latentmas_ray.runs.results import Answer, Failure

Item = TypeVar("Item", bound=Answer | Failure)
_MAX_NAME_CHARS = 150  # of a file; longer ids are truncated and get a digest


class MemoryFolder:
    """A folder of memory files; saves nothing without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @classmethod
    def of(cls, save_memory: str | None) -> "MemoryFolder":
        """Return the folder `save_memory`, created if needed and readable by its owner only. Raises ConfigError."""
        if save_memory is None:
            return cls(None)
        if is_url(save_memory):
            raise ConfigError("save_memory", save_memory, "it must be a folder on this machine")
        try:
            folder = Path(save_memory)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError("save_memory", save_memory, f"it must be a folder to write to: {reason}") from error
        return cls(folder)

    def save(self, result: Item, *, returns_memory: bool) -> Item:
        """Save the memory of a result. Returns the result, without its memory unless `returns_memory`.

        Raises RunError if the file cannot be written.
        """
        if not isinstance(result, Answer) or result.memory is None:
            return result
        if self._folder is not None:
            path = self._folder / file_name(result.id)
            try:
                result.memory.save(path)
            except OSError as error:
                raise RunError(f"the memory cannot be written to {path}: {error.strerror or error}") from error
        return result if returns_memory else replace(result, returned_memory=None)


def file_name(question_id: str) -> str:
    """Return a unique file name for a question id: the id itself if it is a plain name."""
    name = quote(question_id.encode("utf-8", "surrogatepass"), safe=" ,=@+#")
    if len(name) > _MAX_NAME_CHARS or name.startswith("."):
        digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        name = f"{name[:_MAX_NAME_CHARS].lstrip('.')}-{digest}"
    return f"{name}.safetensors"
