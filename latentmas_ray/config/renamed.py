"""Renamed fields and keys. This version reads the old names too, the next one does not.

`CONFIG_FIELDS` are flags, keywords of `LatentMAS` and keys of config.yaml; `TRANSFER_KEYS` are keys of a row of
results.jsonl, in its `transfers`. To rename another field or key, add a row here. `SWITCHES` are short forms of other
fields, and stay.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from latentmas_ray.config.thoughts import parse_thoughts
from latentmas_ray.errors import NO_PIPELINE, PIPELINE_FIELDS, ConfigError, OldNameWarning


@dataclass(frozen=True, kw_only=True)
class Renamed:
    """An old and a new name; `values` maps renamed values from old to new."""

    old: str
    new: str
    values: Mapping[str, str] = field(default_factory=dict)


CONFIG_FIELDS = (Renamed(old="handover", new="transfer", values={"recipe": "recompute"}),)
SWITCHES = {"realign": "thoughts"}  # realign on is thoughts=realign, off is thoughts=identity
TRANSFER_KEYS = (Renamed(old="handover", new="mode", values={"recipe": "recompute"}),)


def current_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration under their new names, with an `OldNameWarning` for each renamed one.

    Raises ConfigError for a field that is given under both names, and for pipeline parallelism, which there is not.
    """
    fields = _without_realign(dict(values))
    for refused in PIPELINE_FIELDS:
        if refused in fields:
            raise ConfigError(refused, fields[refused], NO_PIPELINE)
    for name in CONFIG_FIELDS:
        was = name.old if name.old in fields else name.new
        if was not in fields:
            continue
        if was == name.old and name.new in fields:
            raise ConfigError(name.old, fields[was], f"it is the old name of {name.new}; give one of the two")
        before = fields.pop(was)
        fields[name.new] = _current_value(name, before)
        if was == name.old or fields[name.new] != before:
            now = f"{name.new}={fields[name.new]}"
            warnings.warn(f"{was}={before} is now {now}; the next version refuses it", OldNameWarning, stacklevel=2)
    return fields


def _without_realign(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with `thoughts` in place of `realign`. Raises ConfigError if the two contradict each other."""
    if "realign" not in fields:
        return fields
    value = fields.pop("realign")
    try:
        rule = "realign" if TypeAdapter(bool).validate_python(value) else "identity"
    except ValidationError:
        raise ConfigError("realign", value, "it must be true or false") from None
    given = fields.setdefault("thoughts", rule)
    try:
        is_same = parse_thoughts(given).name == rule
    except ValueError as error:
        raise ConfigError("thoughts", given, str(error)) from None
    if not is_same:
        expected = f"it stands for thoughts {rule}, and thoughts is {given}; give one of the two"
        raise ConfigError("realign", value, expected)
    return fields


def current_transfer(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a transfer of a row of results.jsonl with the new keys and values."""
    return _current_keys(row, TRANSFER_KEYS)


def _current_keys(row: Mapping[str, Any], table: Sequence[Renamed]) -> dict[str, Any]:
    by_old = {name.old: name for name in table}
    return {
        by_old[key].new if key in by_old else key: _current_value(by_old[key], value) if key in by_old else value
        for key, value in row.items()
    }


def _current_value(name: Renamed, value: Any) -> Any:
    return name.values.get(value, value) if isinstance(value, str) else value
