"""Published settings of the method, by task and model, with their source and what is not known of them.

`presets.json` has the facts: what all results share, the bound on new tokens of each task, and which models it was
measured with.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from latentmas_ray.errors import ConfigError
from latentmas_ray.system.settings.start import StartSettings
from latentmas_ray.topology.validation import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The settings of one published result, as fields of a configuration."""

    name: str
    fields: Mapping[str, Any]
    topologies: tuple[str, ...]  # of which results are published; `fields` has the first
    source: str
    unknown: tuple[str, ...]  # what was not published, and what is taken here

    def start(self) -> StartSettings:
        """Return its settings for a run to start from."""
        return StartSettings(source=f"preset {self.name}", fields=self.fields, left_out={})


@cache
def load_presets() -> tuple[Preset, ...]:
    """Return all presets, in the order of their tasks."""
    text = files("latentmas_ray.system.settings").joinpath("presets.json").read_text(encoding="utf-8")
    facts = json.loads(text)
    return tuple(
        Preset(
            name=f"{task}-{facts['models'][size].rpartition('/')[2].lower()}",
            fields={
                "task": task,
                "model": facts["models"][size],
                **facts["settings"],
                "max_new_tokens": of_task["max_new_tokens"],
            },
            topologies=tuple(facts["topologies"]),
            source=facts["source"],
            unknown=tuple(facts["unknown"]),
        )
        for task, of_task in facts["tasks"].items()
        for size in of_task["models"]
    )


def find_preset(name: str) -> Preset:
    """Return the preset of this name, in any case, with `_` or `-` between words. Raises ConfigError."""
    presets = {preset.name: preset for preset in load_presets()}
    plain = {_plain(own): preset for own, preset in presets.items()}
    if (found := plain.get(_plain(name))) is not None:
        return found
    expected = f"{did_you_mean(name, tuple(presets))}it must be one of those that `latentmas presets` lists"
    raise ConfigError("preset", name, expected)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.strip().lower())
