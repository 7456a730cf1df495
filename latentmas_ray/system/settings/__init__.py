"""Settings to start from: those of an earlier run, and published ones. A run may override each of them."""

from latentmas_ray.system.settings.config_file import read_config_file
from latentmas_ray.system.settings.presets import Preset, find_preset, load_presets
from latentmas_ray.system.settings.start import StartSettings

__all__ = ["Preset", "StartSettings", "find_preset", "load_presets", "read_config_file"]
