"""Whether a run may hand over only what its readers can see through sliding windows, before anything is started."""

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError
from latentmas_ray.system.team.run_models import RunModels
from latentmas_ray.topology import Topology


def check_windows(config: RunConfig, topology: Topology, models: RunModels) -> int | None:
    """Return the largest window of a thinking agent's model with `keep_by` window, else None. Raises ConfigError for a
    model with a layer that sees everything, and for a share besides."""
    if config.keep_by != "window":
        return None
    largest: int | None = None
    for agent in topology.agents:
        if agent.thinks != "latent":
            continue
        share = config.keep if agent.keep is None else agent.keep
        if share < 1:
            expected = f"with keep_by window {agent.name} hands over all that a reader can see, and no share of it"
            raise ConfigError("keep", share, f"{expected}: leave one of the two out")
        if (window := models.window_of(agent.name)) is None:
            name = models.team.by_agent[agent.name].name
            expected = f"all layers of {name} must have a sliding window below its positions, and they do not, so that"
            raise ConfigError("keep_by", "window", f"{expected} all of a memory is seen: leave it out")
        largest = max(window, largest or 0)
    return largest
