"""The command that repeats a run: `latentmas eval` with every flag that is not the default."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from latentmas_ray.config.run import RunConfig

_ALWAYS = ("task", "model", "method", "topology")  # shown also where they are the default
# Where results go and what a run joins is not part of it, nor how often it was started.
_LEFT_OUT = ("output", "resume", "address", "detach", "save_memory", "trace")


def eval_flags(config: RunConfig, seeds: Sequence[int] = ()) -> dict[str, str]:
    """Return the flags of a run and their values, by field: those that a reader always wants to see, and those that
    differ from the default. `seeds`: of a run that was repeated with several."""
    default = RunConfig(model=config.model)
    names = dict.fromkeys((*_ALWAYS, *RunConfig.model_fields))
    found = {}
    for name in names:
        value = getattr(config, name)
        if name in _LEFT_OUT or (name not in _ALWAYS and value == getattr(default, name)):
            continue
        if name == "latent_steps" and not config.has_thoughts:
            continue
        flag = name.replace("_", "-")
        found[name] = f"--{flag}" if value is True else f"--no-{flag}" if value is False else f"--{flag} {_text(value)}"
    if len(seeds) > 1:
        found["seed"] = f"--seeds {','.join(map(str, seeds))}"
    return found


def eval_command(config: RunConfig, seeds: Sequence[int] = ()) -> str:
    """Return the command line that repeats a run, or a vote over runs, which its folder names."""
    if config.method == "vote":
        return f"latentmas vote RUN… --rule {config.topology} --seed {config.seed}"
    return " ".join(["latentmas eval", *eval_flags(config, seeds).values()])


def _text(value: Any) -> str:
    if isinstance(value, Mapping):  # replicas by agent, transports by link
        value = ",".join(f"{name}={one}" for name, one in value.items())
    return shlex.quote(f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value))
