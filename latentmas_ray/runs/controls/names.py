"""The names of controls that run together, and the folder of each: `memory-deranged` in the folder of all."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from latentmas_ray.config import MemoryName, RunConfig, is_url
from latentmas_ray.errors import ConfigError, JournalError

CONTROL_NAMES: tuple[MemoryName, ...] = get_args(MemoryName)
DEFAULT_CONTROLS: tuple[MemoryName, ...] = ("matched", "deranged", "none")
HOW_TO_GET = "run latentmas eval with --controls"
_FOLDER = "memory-"
_FORM = (
    f"it must be matched and at least one other of {', '.join(CONTROL_NAMES[1:])}, each once, as in "
    f"{','.join(DEFAULT_CONTROLS)}"
)
_OF_TEXT = ("matched", "corrupted")
_OF_TEXT_HINTS = ("matched", "deranged", "none", "corrupted")  # hints as text


def parse_controls(controls: str | Sequence[str] | bool) -> tuple[MemoryName, ...]:
    """Return checked names from `matched,deranged,none`, from a sequence, or from True, which stands for those. Raises
    ConfigError for an unknown or repeated name, and without matched or anything else."""
    if controls is True:
        return DEFAULT_CONTROLS
    if not isinstance(controls, Iterable):
        raise ConfigError("controls", repr(controls), _FORM)
    given = controls.split(",") if isinstance(controls, str) else list(controls)
    names = [name.strip() if isinstance(name, str) else name for name in given]
    found = tuple(known for name in names for known in CONTROL_NAMES if known == name)
    if len(found) < len(names) or len({*found}) < len(names) or "matched" not in found or len(found) == 1:
        raise ConfigError("controls", ",".join(map(str, given)), _FORM)
    return found


def check_controls(controls: Sequence[MemoryName], config: RunConfig) -> None:
    """Raise ConfigError for controls that mean nothing with the rest of the configuration."""
    given = ",".join(controls)
    if config.memory != "matched":
        raise ConfigError("controls", given, f"it cannot be used with memory {config.memory}; give one of the two")
    if config.method == "single":
        raise ConfigError("controls", given, "method single hands over no memory; use method latent")
    of_text = _OF_TEXT if config.abstractions is None else _OF_TEXT_HINTS
    if config.method == "text" and (others := [name for name in controls if name not in of_text]):
        expected = f"method text hands over no memory, so {others[0]} means nothing; use {','.join(of_text)}"
        raise ConfigError("controls", given, f"{expected}, or method latent")


def control_output(output: str, control: str) -> str:
    """Return the output folder or URL of one control, below `output`, that of all."""
    return f"{output.rstrip('/')}/{_FOLDER}{control}"


def control_folders(folder: Path) -> dict[MemoryName, Path]:
    """Return the output folders of single controls in `folder`, matched first; empty if it has none, or if no file can
    have such a name."""
    found = {name: folder / f"{_FOLDER}{name}" for name in CONTROL_NAMES}
    try:
        return {name: path for name, path in found.items() if path.is_dir()}
    except OSError:  # the caller tells a name that is too long
        return {}


def check_no_controls(output: str) -> None:
    """Raise JournalError if a folder holds runs with controls: no other run may be written there."""
    if not is_url(output) and (found := control_folders(Path(output))):
        there = ", ".join(found)
        expected = f"it holds runs with the controls {there}; give controls, or choose another folder"
        raise JournalError("output", output, expected)
