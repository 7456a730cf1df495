"""The flags `--config` and `--preset`: what a run starts from before its own flags, and what these change."""

from collections.abc import Collection, Mapping
from typing import Any

from latentmas_ray.cli.unused_flags import NOTES, with_value
from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError, hide_password
from latentmas_ray.system.settings import StartSettings, find_preset, read_config_file


def find_start(values: Mapping[str, str], given: Collection[str]) -> StartSettings:
    """Return what one of the two flags names; fields in `given` are typed by the user. Raises ConfigError for both
    flags, and for what is not there."""
    if len(values) > 1:
        raise ConfigError("preset", values["preset"], "it cannot be used with --config; give one of the two")
    if "preset" in values:
        return find_preset(values["preset"]).start()
    return read_config_file(values["config_file"], given)


def tell_changes(start: StartSettings, config: RunConfig, typed: Collection[str]) -> None:
    """Hold notes of what the run has otherwise than what it starts from."""
    was = {**start.fields, **start.overridden}
    changed = [
        f"{with_value(name, getattr(config, name))} (not {_text(was[name])})"
        for name in typed
        if name in was and getattr(config, name) != was[name]
    ]
    if changed:
        NOTES.hold(f"other than in {start.source}: {', '.join(sorted(changed))}")
    if start.left_out:
        left_out = ", ".join(with_value(name, _text(value)) for name, value in start.left_out.items())
        NOTES.hold(f"not taken over from {start.source}: {left_out}; give what is wanted")
    for note in start.notes:
        NOTES.hold(note)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={one}" for name, one in value.items())
    return hide_password(str(value))
