"""The accuracies of answering agents, from a file or from a finished run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentmas_ray.errors import ConfigError, InputError
from latentmas_ray.runs.folder import read_file, read_json, read_yaml
from latentmas_ray.runs.journal import SUMMARY_NAME

_FIELD = "decide_accuracies"
_FORM = "it must be a FILE.yaml or FILE.json with `AGENT: ACCURACY`, as in `judger: 0.8`, or the folder of a run"


def read_accuracies(path: str, agents: Sequence[str]) -> dict[str, float]:
    """Return the accuracies of these agents, each in (0, 1), from a file, or from the folder of a finished run whose
    answers were graded. Raises ConfigError."""
    found = _of_run(Path(path)) if _is_folder(Path(path)) else _content(Path(path))
    if not isinstance(found, dict) or not found:
        raise ConfigError(_FIELD, path, _FORM)
    if missing := [agent for agent in agents if agent not in found]:
        expected = f"it has no accuracy of agent {missing[0]}; it has {', '.join(map(str, found))}"
        raise ConfigError(_FIELD, path, expected)
    for agent in agents:
        value = found[agent]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            expected = "it must be a number between 0 and 1: the share of questions that the agent answers correctly"
            raise ConfigError(_FIELD, f"{agent}: {value}", expected)
    return {agent: float(found[agent]) for agent in agents}


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # such as a name that is too long, which `_content` says
        return False


def _content(path: Path) -> Any:
    try:
        data = read_file(path)
        return read_json(data) if path.suffix.lower() == ".json" else read_yaml(data)
    except (OSError, InputError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise ConfigError(_FIELD, str(path), f"it cannot be read: {reason}; {_FORM}") from None
    except (ValueError, RecursionError):
        raise ConfigError(_FIELD, str(path), _FORM) from None


def _of_run(folder: Path) -> dict[str, float]:
    """Return each answering agent's (right + 1/2) / (graded + 1): so none is 0 or 1."""
    if not (folder / SUMMARY_NAME).is_file():
        expected = f"it cannot be read: it has no {SUMMARY_NAME}; give the folder of a finished run, or a file"
        raise ConfigError(_FIELD, str(folder), expected)
    summary = _content(folder / SUMMARY_NAME)
    votes = summary.get("votes") if isinstance(summary, dict) else None
    try:
        counts = {agent: (one["right"], one["graded"]) for agent, one in (votes or {})["agents"].items()}
        found = {agent: (right + 0.5) / (graded + 1) for agent, (right, graded) in counts.items() if graded}
    except (KeyError, TypeError, AttributeError):
        found = {}
    if not found:
        expected = "the run in it has no graded answers of several agents or samples; give such a run, or a file"
        raise ConfigError(_FIELD, str(folder), expected)
    return found
