"""From a configuration to a runtime that is not started. What a runtime needs is imported here, and only that."""

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
    """A runtime with actors for the agents of `topology`, which is run over `num_batches` first.

    Joins or starts the Ray cluster of `config`, if it is one on Ray. Raises ConfigError and ClusterError.
    """
    make_runner = partial(
        load_runner,
        model,
        dtype=config.dtype,
        device=config.device,
        realign=config.realign,
        revision=config.revision,
        # Asked here: an actor has the environment and the working directory of its cluster.
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
        uses_gpus=config.device != "cpu",
        overlap=config.overlap,
        measures_costs=config.transfer == "auto",
        busy_agents=min(len(names), num_batches * topology.width),
    )


def make_metrics(config: RunConfig) -> MetricSink | None:
    """Where a run's figures are shown while it goes on; nowhere without Ray."""
    if config.runtime != "ray":
        return None
    from latentmas_ray.actors.metrics import RayMetrics

    return RayMetrics()
