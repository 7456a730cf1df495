"""Figures that were measured, on disk: an interrupted benchmark continues after them."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from latentmas_ray.paths import expand_home

NAME = "rows.jsonl"


class MeasuredRows:
    """The rows in the output folder, each with all settings that its figures depend on."""

    def __init__(self, folder: str | None) -> None:
        """Read the rows of `folder`, which exists; None: nothing is kept. A row that is damaged, or was not
        written to its end, is measured again."""
        self._path = None if folder is None else Path(expand_home("output", folder)) / NAME
        self._found: dict[str, Any] = {}
        if self._path is not None and self._path.exists():
            kept = self._path.read_text(errors="replace")
            if kept and not kept.endswith("\n"):
                with self._path.open("a") as file:
                    file.write("\n")
            for line in kept.splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    row = json.loads(line)
                    self._found[_key(row["settings"])] = row["figures"]

    def find(self, settings: Mapping[str, Any]) -> Any:
        """Return the figures that were measured with exactly these settings, as JSON; None if there are none."""
        return self._found.get(_key(settings))

    def add(self, settings: Mapping[str, Any], figures: Any) -> None:
        """Keep figures that were measured with these settings."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({"settings": settings, "figures": figures}) + "\n")


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
