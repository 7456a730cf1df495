"""The file from which the next driver of a run finds the actors of the former one: it holds the run's key."""

import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from latentmas_ray.authentication import RunKey
from latentmas_ray.errors import JournalError, RunError
from latentmas_ray.runs.folder import read_file, read_json

RECORD_NAME = "actors.json"
_MODE, _OTHERS = 0o600, 0o077  # permissions of the file, and those that it must not have


@dataclass(frozen=True)
class DetachedRecord:
    """The Ray namespace of a run's actors, the run's key, and what they were started for."""

    namespace: str
    key: str  # hexadecimal
    facts: str  # a digest of what an actor is made from

    @classmethod
    def new(cls, facts: str) -> "DetachedRecord":
        """Make the record of a run that starts its actors."""
        return cls(f"latentmas-{secrets.token_hex(8)}", secrets.token_hex(32), facts)

    @property
    def run_key(self) -> RunKey:
        """The run's key. Raises ValueError if the record is damaged."""
        return RunKey(bytes.fromhex(self.key))

    def write(self, folder: Path) -> None:
        """Write the record, for its owner's eyes only. Raises RunError."""
        path = folder / RECORD_NAME
        try:
            with suppress(FileNotFoundError):
                path.unlink()
            # Never readable by others, not even for a moment; and no link is followed.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
            with os.fdopen(descriptor, "w") as file:
                if os.fstat(descriptor).st_mode & _OTHERS:
                    path.unlink()
                    reason = "others could read it there; leave out detach, or choose another output"
                    raise RunError(f"{path} cannot be written: {reason}")
                json.dump(asdict(self), file)
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror or error}") from error

    @classmethod
    def read(cls, folder: Path) -> "DetachedRecord | None":
        """Return the record of a folder; None if there is none, or none that can be used: others could read it, it is
        damaged, or it is no file."""
        path = folder / RECORD_NAME
        try:
            if path.is_symlink() or path.stat().st_mode & _OTHERS:
                return None
            record = cls(**read_json(read_file(path)))
            record.run_key  # noqa: B018  raises if it is damaged
        except (OSError, JournalError, ValueError, TypeError):
            return None
        return record if isinstance(record.namespace, str) and isinstance(record.facts, str) else None

    @staticmethod
    def remove(folder: Path) -> None:
        """Remove the record: no actors are left. Never raises."""
        with suppress(OSError):
            (folder / RECORD_NAME).unlink(missing_ok=True)
