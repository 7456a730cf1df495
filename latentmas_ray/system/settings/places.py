"""Finds the files that an earlier run has used: its config.yaml, its task, its model and its topology."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentmas_ray.config import EMBEDDED_MODELS, RunConfig, is_url
from latentmas_ray.errors import ConfigError, InputError
from latentmas_ray.paths import expand_home
from latentmas_ray.runs.journal import CONFIG_NAME, TOPOLOGY_NAME
from latentmas_ray.tasks import BUILTIN_TASKS, find_benchmark
from latentmas_ray.topology import BUILTIN, builtin_for, dump_topology, load_topology

EXPECTED = f"give the {CONFIG_NAME} in the output folder of a run, or that folder"
_MAX_NAMED = 4  # files in a message


@dataclass(frozen=True)
class FilePlaces:
    """The folders in which a relative name is looked for."""

    file: Path  # config.yaml
    started_in: str | None  # the folder in which the run was started; None: its file names none

    def find(self, field: str, name: str) -> str:
        """Return the name of this file or folder from here. Raises ConfigError if it is nowhere."""
        started_in = () if self.started_in is None else (Path(self.started_in),)
        for base in (*started_in, Path(), self.file.parent):
            try:
                if (base / name).exists():
                    return name if base.resolve() == Path.cwd() or Path(name).is_absolute() else str(base / name)
            except (OSError, ValueError):  # too long, or with a zero byte
                break
        more = "" if self.started_in is None else f", nor in {self.started_in}, where the run was started"
        raise ConfigError(f"{self.file}: {field}", name, f"it is not here{more}; say where it is now ({field})")

    def find_files(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the names of the files in `fields` from here. A relative name of a model that is no folder may be one
        on the hub. Raises ConfigError."""
        found: dict[str, Any] = {}
        task, model, hardware = fields.get("task"), fields.get("model"), fields.get("hardware")
        if task is not None and task not in BUILTIN_TASKS and find_benchmark(task) is None:
            found["task"] = self.find("task", task)
        if model is not None:
            found["model"] = self._find_model("model", model)
        if models := fields.get("models"):
            found["models"] = {agent: self._find_model(f"models: {agent}", own) for agent, own in models.items()}
        for field in ("translation", "decide_accuracies"):
            if (name := fields.get(field)) is not None:
                found[field] = self.find(field, name)
        if hardware is not None and hardware.lower().endswith(".json"):
            found["hardware"] = self.find("hardware", hardware)
        return found

    def _find_model(self, field: str, name: str) -> str:
        if name in EMBEDDED_MODELS:
            return name
        try:
            return self.find(field, name)
        except ConfigError:
            if Path(name).is_absolute():
                raise
            return name

    def find_topology(self, config: RunConfig) -> tuple[str, tuple[str, ...]]:
        """Return the name of the run's topology from here, and notes. One that is not built in is that of its file if
        the file has not changed, else the copy in the run's folder. Raises ConfigError if it is nowhere."""
        name, copy = config.topology, self.file.parent / TOPOLOGY_NAME
        is_file = name.lower().endswith((".yaml", ".yml"))  # else it is built in, or was made in Python
        if not copy.exists():
            is_builtin = builtin_for(config.task, name) in BUILTIN
            return (name if is_builtin else self.find("topology", name)), ()
        try:
            found = self.find("topology", name) if is_file else None
        except ConfigError:
            found = None
        if found is None:
            return str(copy), ()
        text = dump_topology(load_topology(str(copy)))
        try:
            is_same = dump_topology(load_topology(found)) == text
        except InputError:
            is_same = False
        if is_same:
            return found, ()
        return str(copy), (f"{found} has changed since the run: its copy {copy} is used",)


def find_config(given: str | Path) -> Path:
    """Return the file of this name, or the config.yaml in this folder. Raises ConfigError, which names the files to
    choose from where there are several."""
    if is_url(str(given)):
        raise ConfigError("config", str(given), "it must be a file on this machine; copy it to one")
    path = Path(expand_home("config", str(given)))
    try:
        if path.is_dir() and not (path / CONFIG_NAME).exists():
            # A folder for each seed, for each number of latent steps, or both.
            inner = sorted({*path.glob(f"*/{CONFIG_NAME}"), *path.glob(f"*/*/{CONFIG_NAME}")})
            if inner:
                named = ", ".join(map(str, inner[:_MAX_NAMED])) + (", …" if len(inner) > _MAX_NAMED else "")
                raise ConfigError("config", str(given), f"it holds {len(inner)} runs: give one of {named}")
        path = path / CONFIG_NAME if path.is_dir() else path
        if not path.exists():
            raise ConfigError("config", str(given), f"there is no such file; {EXPECTED}")
    except OSError as error:
        raise ConfigError("config", str(given), f"it cannot be read: {error.strerror or error}") from error
    return path
