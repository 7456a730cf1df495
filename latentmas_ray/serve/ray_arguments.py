"""The arguments of an application of Ray Serve, from `serve run … key=value` or the `args` of a configuration file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latentmas_ray.config import RunConfig
from latentmas_ray.config.run import make_config
from latentmas_ray.errors import ConfigError
from latentmas_ray.serve.admission.limits import ServeLimits, read_limits
from latentmas_ray.serve.teams.served import ServedTeams

BATCH_SIZE = 16  # as of `latentmas serve`
# What a team within a cluster has not: it is part of that cluster, and answers single questions without a folder of
# results; and what its requests say.
_REFUSED = {
    "runtime": "the team is on the cluster of Ray Serve: leave it out",
    "address": "the team is on the cluster of Ray Serve: leave it out",
    "output": "a server keeps no results: leave it out",
    "resume": "a server keeps no results: leave it out",
    "detach": "the team ends with its ingress: leave it out",
    "drivers": "Serve adds teams, by num_replicas or autoscaling_config: leave it out",
    "method": "each method is a model of its own, as in latentmas/sequential/text: leave it out",
    "memory": "a request asks for a control (latentmas.memory): leave it out",
    "trace": "a request asks for it (latentmas.trace): leave it out",
    "save_memory": "a request asks to keep a conversation (latentmas.conversation): leave it out",
    "limit": "it is for a task of questions: leave it out",
    "abstractions": "hints are for an evaluation: leave it out",
    "hints": "hints are for an evaluation: leave it out",
    "unsafe_programs": "no answer is graded: leave it out",
}


@dataclass(frozen=True, kw_only=True)
class AppArguments:
    """The arguments, checked. It travels to every replica, where its methods make what cannot travel."""

    config: RunConfig
    topologies: tuple[str, ...] = ()
    limit_fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, arguments: Mapping[str, Any]) -> "AppArguments":
        """Check the arguments. Raises ConfigError."""
        values = dict(arguments)
        for name, why in _REFUSED.items():
            if name in values:
                raise ConfigError(name, values[name], why)
        topologies = values.pop("topologies", ())
        if isinstance(topologies, str):
            topologies = [name.strip() for name in topologies.split(",")]
        if not isinstance(topologies, list | tuple) or not all(isinstance(one, str) and one for one in topologies):
            raise ConfigError("topologies", topologies, "it must be a list of names, as in [sequential, hierarchical]")
        limits = values.pop("limits", {})
        if not isinstance(limits, Mapping):
            raise ConfigError("limits", limits, "it must be a mapping, as in {max_running: 64, max_waiting: 256}")
        config = make_config({"batch_size": BATCH_SIZE, **values})
        given = cls(config=config, topologies=tuple(topologies), limit_fields=dict(limits))
        given.limits()
        return given

    def make_teams(self) -> ServedTeams:
        """Return teams that have not started. Raises InputError kinds."""
        return ServedTeams(self.config, self.topologies)

    def limits(self) -> ServeLimits:
        """Return the limits, with the keys of `limits.api_keys`, or of this process's environment. Raises
        ConfigError."""
        return read_limits(self.limit_fields)
