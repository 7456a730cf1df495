"""Orders runs, labels them by the settings in which they differ, and groups those that can be compared."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, get_args

from latentmas_ray.config import Method, RunConfig, describe_models, most_steps
from latentmas_ray.report.html.entries import Entry, Group
from latentmas_ray.report.published import file_stem, task_title
from latentmas_ray.report.runs import FinishedRun
from latentmas_ray.runs.environment import versions_line

Runs = Sequence[FinishedRun]  # of one folder: one run, or one per seed

# Settings that a label names, after the method, if runs differ in them; and how it writes them.
_DISTINCT = {
    "topology": "{}",
    "latent_steps": "m = {}",
    "seed": "{}",
    "thoughts": "thoughts {}",
    "transfer": "{}",
    "codec": "codec {}",
    "keep": "keep {}",
    "keep_by": "keep by {}",
    "keep_layers": "{} layers",
    "guard": "guard {}",
    "temperature": "T = {}",
    "top_p": "top-p {}",
    "dtype": "{}",
    "max_new_tokens": "≤ {} tokens",
    "batch_size": "batch {}",
    "limit": "first {}",
    "runtime": "{}",
    "replicas": "replicas {}",
}
_LATENT_ONLY = {"latent_steps", "thoughts", "transfer", "codec", "keep", "keep_by", "keep_layers", "guard"}
# Labels of controls, in their order on the page.
_CONTROLS = {
    "deranged": "deranged memory",
    "prompt-only": "memory of prompts only",
    "latent-only": "memory of thoughts only",
    "latent-only+sink": "memory of thoughts and first tokens",
    "none": "no memory",
    "corrupted": "one agent told wrongly",
}
_MEMORIES = ("matched", *_CONTROLS)


def make_groups(folders: Sequence[Runs]) -> tuple[Group, ...]:
    """Group runs by task and model. Within a group, order them by method (single, text, latent, vote), control and
    latent steps."""
    keys = [_group_key(runs) for runs in folders]
    ordered = sorted(folders, key=lambda runs: (keys.index(_group_key(runs)), *_rank(runs[0].config)))
    labels = iter(_labels(ordered))
    groups, count = [], 0
    for (task, model), members in groupby(ordered, key=_group_key):
        entries = tuple(Entry(f"r{count + index}", next(labels), tuple(runs)) for index, runs in enumerate(members))
        count += len(entries)
        groups.append(Group(task, model, entries))
    return tuple(groups)


def common_settings(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Return the settings that affect results and are the same in all runs, with names of tasks and models without
    folders.

    Always includes the versions of the software that made the runs, if known.
    """
    first = _settings(runs[0])
    common = {name: value for name, value in first.items() if all(_settings(run)[name] == value for run in runs)}
    made = dict.fromkeys(versions_line(run.summary.made_with) for run in runs if run.summary and run.summary.made_with)
    return common | ({"made_with": "; or: ".join(made)} if made else {})


def _settings(run: FinishedRun) -> dict[str, Any]:
    config = run.config
    named = {name: file_stem(getattr(config, name)) for name in ("task", "topology")} | {"model": _models(config)}
    settings = {name: value for name, value in config.identity().items() if name != "models"}
    return {**settings, "runtime": config.runtime, **named}


def _group_key(runs: Runs) -> tuple[str, str]:
    return task_title(runs[0].config.task), _models(runs[0].config)


def _models(config: RunConfig) -> str:
    return describe_models(file_stem(config.model), {agent: file_stem(model) for agent, model in config.models.items()})


def _rank(config: RunConfig) -> tuple[int, int, int]:
    steps = most_steps(config.latent_steps) if config.method == "latent" else 0
    return get_args(Method).index(config.method), _MEMORIES.index(config.memory), steps


def _labels(folders: Sequence[Runs]) -> list[str]:
    """Return the label of each folder. Equal labels within a group are numbered."""
    labels = [(_group_key(runs), _label(runs, folders)) for runs in folders]
    counts, numbers = Counter(labels), Counter[tuple[tuple[str, str], str]]()
    found = []
    for named in labels:
        numbers[named] += 1
        found.append(named[1] if counts[named] == 1 else f"{named[1]} ({numbers[named]})")
    return found


def _label(runs: Runs, folders: Sequence[Runs]) -> str:
    """Return the method and the settings in which a run differs from others of its group and method; if there are none,
    also its folder."""
    config = runs[0].config
    alike = [
        other for other in folders if _group_key(other) == _group_key(runs) and other[0].config.method == config.method
    ]
    names = [
        name
        for name in _DISTINCT
        if (config.method == "latent" or name not in _LATENT_ONLY)
        and any(_value(alike[0], name) != _value(other, name) for other in alike)
    ]
    control = [] if config.memory == "matched" else [_CONTROLS[config.memory]]
    parts = [config.method, *control, *(_DISTINCT[name].format(_value(runs, name)) for name in names)]
    twins = [other for other in alike if other[0].config.memory == config.memory]
    if sum(all(_value(other, name) == _value(runs, name) for name in names) for other in twins) > 1:
        parts.append(_folder_name(runs))
    return " · ".join(part.replace(" = ", "\u00a0=\u00a0") for part in parts)


def _folder_name(runs: Runs) -> str:
    """Return the name of the run's folder, or of the one that has the folders of its seeds."""
    folder = runs[0].folder if len(runs) == 1 else runs[0].folder.parent
    return folder.resolve().name if folder.name in ("", "..") else folder.name


def _value(runs: Runs, name: str) -> str:
    """Return how a label writes a setting."""
    if name == "seed":
        return ("seed " if len(runs) == 1 else "seeds ") + ", ".join(str(run.config.seed) for run in runs)
    value: Any = getattr(runs[0].config, name)
    if isinstance(value, Mapping):
        return ",".join(f"{agent}={count}" for agent, count in value.items())
    if isinstance(value, bool):
        return "on" if value else "off"
    if name == "limit" and value is None:
        return "all"
    return file_stem(value).removesuffix(".yaml") if name == "topology" else str(value)
