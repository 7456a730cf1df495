"""The folder of a study: `study.json` says which, `cells.jsonl` has a line for each finished cell, `weights/` what they
trained, and `states/` where unfinished ones resume. Every file is complete or not there."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from examples.training.studies.cell import StudyCell
from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import replacement_of
from latentmas_ray.runs.folder import FolderLock, make_folder

_STUDY, _CELLS, _WEIGHTS, _STATES = "study.json", "cells.jsonl", "weights", "states"


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """A finished cell: a line of `cells.jsonl`. `weights` is the file of its weights in the folder, if it has any;
    `node` is the address of the node that finished it."""

    cell: str
    seed: int
    settings: Mapping[str, Any]
    after: Sequence[str]
    figures: Mapping[str, Any]
    cpu_seconds: float
    weights: str | None
    node: str = ""

    def is_of(self, cell: StudyCell) -> bool:
        """Return whether `cell`, as it is made now, is the one that was run."""
        own = (self.seed, dict(self.settings), list(self.after))
        return own == (cell.seed, json.loads(json.dumps(dict(cell.settings))), list(cell.after))


class StudyFolder:
    """A folder of one study. With `lock` it is created if need be, and no other process can open it with `lock`."""

    def __init__(self, path: Path, study: str, *, lock: bool = True) -> None:
        """Raises InputError if it is the folder of something else, if another process runs cells there, or, without
        `lock`, if it does not exist."""
        self.path = path
        if lock:
            make_folder(path)
        self._check(study, may_be_new=lock)
        self._lock = FolderLock(path) if lock else None
        if lock:
            (path / _WEIGHTS).mkdir(exist_ok=True)
            (path / _STATES).mkdir(exist_ok=True)
            self.write(_STUDY, json.dumps({"study": study}) + "\n")
        self.rows = {row.cell: row for row in self._read()}

    def _check(self, study: str, *, may_be_new: bool) -> None:
        is_new = not self.path.is_dir() or not any(one.name != ".lock" for one in self.path.iterdir())
        if is_new:
            if not may_be_new:
                raise ConfigError("folder", str(self.path), f"there is nothing of the study {study} yet; run it first")
            return
        try:
            found = json.loads((self.path / _STUDY).read_text(encoding="utf-8"))["study"]
        except (OSError, ValueError, KeyError, TypeError):
            expected = f"it has files of its own and no {_STUDY}; give a new or empty folder, or one of {study}"
            raise ConfigError("folder", str(self.path), expected) from None
        if found != study:
            raise ConfigError(
                "folder", str(self.path), f"it is of the study {found}; give a new one, or one of {study}"
            )

    def _read(self) -> list[StudyRow]:
        path = self.path / _CELLS
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(StudyRow(**json.loads(line)))
            except (ValueError, TypeError):
                expected = "it must be a line that a finished cell has written; remove it, and the cell runs again"
                raise ConfigError(f"{path}:{number}", line, expected) from None
        return rows

    def check_cells(self, cells: Sequence[StudyCell]) -> None:
        """Raise ConfigError if one of these was run with other settings."""
        for cell in cells:
            row = self.rows.get(cell.name)
            if row is not None and not row.is_of(cell):
                expected = f"its cell {cell.name} was run with other settings; give a new folder, or those settings"
                raise ConfigError("folder", str(self.path), expected)

    def add(
        self, cell: StudyCell, figures: Mapping[str, Any], weights: bytes | None, cpu_seconds: float, node: str = ""
    ) -> None:
        """Keep what a cell gave, and remove its state. The line comes last, so a line's weights are always there."""
        name = None if weights is None else f"{_WEIGHTS}/{cell.name}.pt"
        if weights is not None:
            self.write(f"{_WEIGHTS}/{cell.name}.pt", weights)
        row = StudyRow(
            cell=cell.name,
            seed=cell.seed,
            settings=json.loads(json.dumps(dict(cell.settings))),
            after=list(cell.after),
            figures=json.loads(json.dumps(dict(figures))),
            cpu_seconds=round(cpu_seconds, 2),
            weights=name,
            node=node,
        )
        self.rows[cell.name] = row
        self.write(_CELLS, "".join(json.dumps(asdict(one)) + "\n" for one in self.rows.values()))
        self._state(cell.name).unlink(missing_ok=True)

    def weights(self, name: str) -> bytes:
        """Return the weights of a finished cell as they were written; `unpack` reads them.

        Raises ConfigError if the cell has none or the file is gone.
        """
        row = self.rows[name]
        path = self.path / (row.weights or f"{_WEIGHTS}/{name}.pt")
        try:
            return path.read_bytes()
        except OSError:
            expected = f"the weights of {name} must be there; remove its line from {_CELLS}, and it runs again"
            raise ConfigError("folder", str(path), expected) from None

    def save_state(self, name: str, state: bytes) -> None:
        """Keep the state of an unfinished cell, in place of an earlier one."""
        self.write(f"{_STATES}/{name}.pt", state)

    def state(self, name: str) -> bytes | None:
        """Return the state of an unfinished cell; None if it has none."""
        path = self._state(name)
        return path.read_bytes() if path.exists() else None

    def _state(self, name: str) -> Path:
        return self.path / _STATES / f"{name}.pt"

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the folder: after a crash it has the old content or the new one."""
        with replacement_of(self.path / name, ".study-{}.new") as file:
            file.write(content.encode() if isinstance(content, str) else content)

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.close()


def pack(value: Any) -> bytes:
    """Return tensors, numbers, strings, and lists and dicts of them as bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def unpack(content: bytes) -> Any:
    """Return what `pack` was given."""
    return torch.load(io.BytesIO(content), weights_only=True)
