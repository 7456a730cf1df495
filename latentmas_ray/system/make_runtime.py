"""Make the runtime of a configuration. Imports only the modules that this runtime needs."""

from functools import partial
from typing import TYPE_CHECKING

from latentmas_ray.config import RunConfig
from latentmas_ray.engine.load import load_runner
from latentmas_ray.env import read_environment
from latentmas_ray.scheduler.metrics import MetricSink
from latentmas_ray.scheduler.protocol import Runtime
from latentmas_ray.topology import Topology
from latentmas_ray.transport.choose import DeviceLayout

if TYPE_CHECKING:
    from latentmas_ray.models.given import GivenModel


def make_runtime(config: RunConfig, model: "str | GivenModel", topology: Topology, num_batches: int) -> Runtime:
    """Return a runtime, not started, for the agents of `topology`; `num_batches` is for its first run.

    With runtime ray it joins or starts the Ray cluster of `config`. Raises ConfigError and ClusterError.
    """
    make_runner = partial(
        load_runner,
        model,
        dtype=config.dtype,
        device=config.device,
        realign=config.realign,
        revision=config.revision,
        # Read here: actors have the environment and the working directory of their cluster.
        cache_dir=read_environment().cache_dir.absolute(),
    )
    if config.runtime == "local":
        from latentmas_ray.actors.local_runtime import LocalRuntime
        from latentmas_ray.transport.make import pick_transport

        transport, _ = pick_transport(config.transport, config.codec, DeviceLayout(same_process=True))
        return LocalRuntime(make_runner, transport)
    from latentmas_ray.actors.cluster import connect_as_configured

    # Before the imports that follow: they need torch, which is imported while Ray starts.
    cluster = connect_as_configured(config.address)
    from latentmas_ray.actors.ray_runtime import RayRuntime
    from latentmas_ray.transport.make import pick_transport

    names = [agent.name for agent in topology.agents]
    return RayRuntime(
        names,
        make_runner,
        partial(pick_transport, config.transport, config.codec),
        cluster=cluster,
        replicas=config.replicas,
        placement=config.placement,
        tp=config.tp,
        turn_seconds=config.turn_timeout,
        start_seconds=config.start_timeout,
        uses_gpus=config.device != "cpu",
        overlap=config.overlap,
        measures_costs=config.transfer == "auto",
        busy_agents=min(len(names), num_batches * topology.width),
    )


def make_metrics(config: RunConfig) -> MetricSink | None:
    """Return where the metrics of runs go; None without Ray."""
    if config.runtime != "ray":
        return None
    from latentmas_ray.actors.metrics import RayMetrics

    return RayMetrics()
