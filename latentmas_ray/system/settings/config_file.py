"""The settings of an earlier run, read from its config.yaml, for the same run again.

Files of earlier versions are read too. What says where a run's results go, and what it joins, is not taken over; nor is
what a user has to allow each time.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from latentmas_ray.config import RunConfig, make_config, stored_fields
from latentmas_ray.config.renamed import CONFIG_FIELDS
from latentmas_ray.errors import ConfigError, JournalError
from latentmas_ray.runs.folder import read_file, read_yaml
from latentmas_ray.runs.journal import STARTED_IN
from latentmas_ray.system.settings.places import EXPECTED, FilePlaces, find_config
from latentmas_ray.system.settings.start import StartSettings
from latentmas_ray.topology import apply_control, apply_method, builtin_for, digest_topology, load_topology

# Another run writes into a folder of its own, and joins the cluster that it is given.
_OF_ONE_RUN = ("output", "resume", "address", "detach", "save_memory")
_ALLOWED_EACH_TIME = ("unsafe_programs", "otel")  # programs without limits; what leaves this machine
_NOT_TOLD = ("output", "resume")  # every run that has a config.yaml had an output
_NOT_FIELDS = ("pinned", STARTED_IN)
_DECIDES_TOPOLOGY = {"topology", "task", "method", "memory"}


def read_config_file(path: str | Path, given: Collection[str] = ()) -> StartSettings:
    """Return the settings of the run that wrote this config.yaml, or of the one in this folder.

    Fields in `given` have other values, and the files that they would name are not looked for. A relative name of a
    file is one below the folder in which the run was started, else below the current one, else below that of
    config.yaml. A topology that is not a built-in one is that of the file it came from, if it has not changed, else its
    copy in the run's folder.

    Raises ConfigError for anything but such a file, for fields that this version does not have or refuses, and for a
    task, a model or a topology that is not there.
    """
    file = find_config(path)
    values = _read(file)
    pinned = values.get("pinned")
    facts = pinned if isinstance(pinned, dict) else {}
    fields, left_out = _taken_over(file, values, given)
    config = _checked(file, fields)
    if "weights_revision" in facts and "model" not in given:
        expected = "the run had a model object of Python, which no file can name: give a model"
        raise ConfigError(f"{file}: model", config.model, expected)
    overridden = {name: getattr(config, name) for name in fields if name in given}
    fields = {name: getattr(config, name) for name in fields if name not in given}
    started_in = values.get(STARTED_IN)
    places = FilePlaces(file, started_in if isinstance(started_in, str) else None)
    fields |= places.find_files(fields)
    notes: tuple[str, ...] = ()
    if "topology" in fields:
        fields["topology"], notes = places.find_topology(config)
    if not _DECIDES_TOPOLOGY & set(given):
        notes += _note_of_topology(make_config(fields), facts)
    return StartSettings(source=str(file), fields=fields, left_out=left_out, overridden=overridden, notes=notes)


def _read(file: Path) -> dict[str, Any]:
    try:
        values = read_yaml(read_file(file))
    except JournalError as error:
        raise ConfigError("config", str(file), f"{error.expected}; {EXPECTED}") from error
    except OSError as error:
        raise ConfigError("config", str(file), f"it cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        first = str(error).partition("\n")[0]
        raise ConfigError("config", str(file), f"it must be YAML of a run's fields ({first}); {EXPECTED}") from error
    if not isinstance(values, dict) or not values or not all(isinstance(name, str) for name in values):
        raise ConfigError("config", str(file), f"it must hold the fields of a run; {EXPECTED}")
    return values


def _taken_over(file: Path, values: Mapping[str, Any], given: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that another run takes over, and those that it does not, without their defaults. Raises
    ConfigError for a field that this version does not have."""
    known = {*RunConfig.model_fields, *(name.old for name in CONFIG_FIELDS), *_NOT_FIELDS}
    if unknown := [name for name in values if name not in known]:
        expected = "this version has no such field: remove the line, or use the version that wrote the file"
        raise ConfigError(f"{file}: {unknown[0]}", values[unknown[0]], expected)
    fields = stored_fields({name: value for name, value in values.items() if name not in _NOT_FIELDS})
    names = [*_OF_ONE_RUN, *_ALLOWED_EACH_TIME]
    if "output" not in given:
        names.append("trace")  # traces are files
    left_out = {name: fields.pop(name) for name in names if name in fields}
    default = RunConfig()
    return fields, {
        name: value
        for name, value in left_out.items()
        if name not in (*_NOT_TOLD, *given) and value != getattr(default, name)
    }


def _checked(file: Path, fields: Mapping[str, Any]) -> RunConfig:
    try:
        return make_config(fields)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.field}", error.value, error.expected) from error


def _note_of_topology(config: RunConfig, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a note if the agents or their prompts are not those of the run."""
    was = facts.get("topology_digest")
    if was is None:
        return ()
    topology = load_topology(builtin_for(config.task, config.topology))
    topology = apply_method(topology, config.method, single=builtin_for(config.task, "single"))
    if digest_topology(apply_control(topology, config.memory)) == was:
        return ()
    return (f"the agents of topology {config.topology} are not what they were in the run: answers may differ",)
