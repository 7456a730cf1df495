"""Make the runtime of a configuration. Imports only the modules that this runtime needs."""

import json
import secrets
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentmas_ray.config import (
    RunConfig,
    RunSetting,
    least_by_agent,
    most_by_agent,
    replicas_by_agent,
    unused_by_choice,
)
from latentmas_ray.engine.load import load_runner
from latentmas_ray.env import read_environment
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement import WHOLE_CLUSTER, ActorPlanner, ClusterPart
from latentmas_ray.scheduler.metrics import MetricSink
from latentmas_ray.scheduler.protocol import Runtime
from latentmas_ray.system.auto_layout import RunPlanner
from latentmas_ray.system.engines import EngineChoice, apart, choose_engines, describe_engines
from latentmas_ray.system.team.run_models import RunModels
from latentmas_ray.topology import AgentModel, Topology
from latentmas_ray.transport.choose import DeviceLayout

if TYPE_CHECKING:
    from latentmas_ray.actors.cluster import Cluster
    from latentmas_ray.actors.detached.actors import DetachedActors
    from latentmas_ray.actors.elastic.follow import Growth
    from latentmas_ray.actors.text.setup import TextSetup
    from latentmas_ray.engine.runner import TurnRunner
    from latentmas_ray.writing.text_runner import TextRunner


NO_STAND_INS: Mapping[tuple[str, str], str] = {}


def make_runtime(
    config: RunConfig,
    models: RunModels,
    topology: Topology,
    num_batches: int,
    part: ClusterPart = WHOLE_CLUSTER,
    stand_ins: Mapping[tuple[str, str], str] = NO_STAND_INS,
) -> Runtime:
    """Return a runtime, not started, for the agents of `topology`; `num_batches` is for its first run, `stand_ins` are
    those of `ReplicaRequest`. With runtime ray it joins or starts the Ray cluster of `config`, and uses this part.
    Raises ConfigError kinds."""
    loading: dict[str, Any] = {
        "device": config.device,
        "thoughts": config.thoughts,
        # Read here: actors have the environment and the working directory of their cluster.
        "cache_dir": read_environment().cache_dir.absolute(),
    }
    make_runner, own = runner_makers(models, topology, loading)
    if config.runtime == "local":
        return _local_runtime(config, models, topology, make_runner, own, stand_ins)
    # Before the imports that follow: they need torch, which is imported while Ray starts.
    cluster = _connect(config, part)
    from latentmas_ray.actors.ray_runtime import RayRuntime
    from latentmas_ray.actors.replicas.request import ReplicaRequest
    from latentmas_ray.transport.make import pick_transport

    names = [agent.name for agent in topology.agents]
    has_gpu = config.device != "cpu" and any(node.whole_gpus for node in cluster.nodes)
    choices = choose_engines(config, topology, has_name=models.has_names, has_gpu=has_gpu)
    warn_of_choice(config, topology, choices)
    busy_agents = min(len(names), num_batches * topology.width)
    planner = RunPlanner(config, models, topology, choices, cluster.nodes, busy_agents)
    counts = replicas_by_agent(planner.replicas, names)
    request = ReplicaRequest(
        agents=tuple(names),
        replicas=counts,
        make_runner=make_runner,
        own_runners=own,
        other_models={agent: str(one) for agent, one in models.others.items()},
        placement=config.placement,
        tp=planner.tp,
        busy_agents=busy_agents,
        uses_gpus=config.device != "cpu",
        num_threads=config.threads or read_environment().torch_threads,
        start_seconds=config.start_timeout,
        turn_seconds=config.turn_timeout,
        texts=text_setups(config, models, topology, choices, loading),
        detached=detached_actors(config, models, planner),
        stand_ins=stand_ins,
        planner=ActorPlanner(make_plan=planner.plan, layout=planner.layout, keeps_layout=planner.keeps_layout),
    )
    return RayRuntime(
        request,
        partial(pick_transport, config.transport, config.codec),
        cluster=cluster,
        growth=growth_of(config, counts),
        overlap=config.overlap,
        measures_costs=config.transfer == "auto" and not apart(choices),
        note=describe_engines(topology, choices),
    )


def _local_runtime(
    config: RunConfig,
    models: RunModels,
    topology: Topology,
    make_runner: "Callable[..., TurnRunner]",
    own: "Mapping[str, Callable[..., TurnRunner]]",
    stand_ins: Mapping[tuple[str, str], str],
) -> Runtime:
    """Return a runtime that executes all turns in this process."""
    from latentmas_ray.actors.local_runtime import LocalRuntime
    from latentmas_ray.transport.make import pick_transport

    transport, _ = pick_transport(config.transport, config.codec, DeviceLayout(same_process=True))
    choices = choose_engines(config, topology, has_name=models.has_names, has_gpu=False)
    num_threads = config.threads or read_environment().torch_threads
    note = describe_engines(topology, choices)
    own = {**own, **{agent: own[actor] for (agent, _), actor in stand_ins.items() if actor in own}}
    return LocalRuntime(make_runner, transport, note=note, own=own, num_threads=num_threads)


def runner_makers(
    models: RunModels, topology: Topology, loading: Mapping[str, Any]
) -> "tuple[Callable[..., TurnRunner], dict[str, Callable[..., TurnRunner]]]":
    """Return what loads the first agent's model, and by agent what loads the others: one function for each model."""
    makers = {
        one: partial(load_runner, models.place_of(one), **models.loading(one, topology), **loading)
        for one in models.team.models
    }
    return makers[models.first], {agent: makers[one] for agent, one in models.others.items()}


def _connect(config: RunConfig, part: ClusterPart) -> "Cluster":
    """Join or start the cluster of a run. Raises ConfigError, ClusterError."""
    from latentmas_ray.actors.cluster import connect_as_configured

    if config.detach is not None and (config.address or read_environment().ray_address) in (None, "local"):
        expected = "it needs a cluster that outlives the driver: give its address, or RAY_ADDRESS"
        raise ConfigError("detach", config.detach, expected)
    return connect_as_configured(config.address, part)


def detached_actors(config: RunConfig, models: RunModels, planner: RunPlanner) -> "DetachedActors | None":
    """Return what names the actors of a run that outlive its driver; None without `detach`.

    Raises ConfigError if such actors cannot join a later driver, and what `DetachedActors` raises.
    """
    if config.detach is None or config.output is None:
        return None
    if planner.tp > 1:
        expected = f"it must be left out: the search chose tp {planner.tp}, whose ranks do not join a new driver"
        raise ConfigError("detach", config.detach, expected)
    from latentmas_ray.actors.detached.actors import DetachedActors

    # What a resumed run must share anyway is checked by its journal; these fields may change, and actors with them.
    made_from = (
        *("replicas", "placement", "tp", "engine", "decode_batch", "transport", "transfer", "trace"),
        *("turn_timeout", "detach", "threads"),  # actors keep to these themselves
    )
    facts = {name: getattr(config, name) for name in made_from}
    if planner.layout is not None:  # on other nodes a search may choose another one
        facts |= planner.layout.fields
    # The weights of objects are not compared.
    facts["model"] = models.model if isinstance(models.model, str) else secrets.token_hex(8)
    if models.others:
        facts["models"] = {agent: str(one) for agent, one in models.team.by_agent.items()}
    digest = blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
    return DetachedActors(Path(config.output), config.detach, digest, resume=config.resume)


def growth_of(config: RunConfig, counts: Mapping[str, int]) -> "Growth":
    """Return how far the replicas of a run that asks for `counts` follow the cluster. Raises ConfigError."""
    from latentmas_ray.actors.elastic.follow import Growth

    is_colocated = config.placement == "colocate"
    return Growth(
        most_by_agent(config.max_replicas, counts, is_colocated=is_colocated),
        least_by_agent(config.min_replicas, counts),
        rebalances=config.rebalance and not is_colocated,
    )


def warn_of_choice(config: RunConfig, topology: Topology, choices: Mapping[str, EngineChoice]) -> None:
    """Warn of what does nothing with the engines that `auto` has chosen, and could not be told before."""
    asked = tuple(agent.engine for agent in topology.agents if agent.thinks == "text")
    for warning in unused_by_choice(
        RunSetting(config=config, own_engines=asked), [choice.engine for choice in choices.values()]
    ):
        warnings.warn(warning, stacklevel=2)


def text_setups(
    config: RunConfig,
    models: RunModels,
    topology: Topology,
    choices: Mapping[str, EngineChoice],
    loading: Mapping[str, Any],
) -> "dict[str, TextSetup]":
    """Return how the actors of agents that write text load their model. Agents with the same engine and model load
    alike."""
    from latentmas_ray.actors.text.device_share import device_share
    from latentmas_ray.actors.text.setup import TextSetup
    from latentmas_ray.actors.text.vllm_runner import load_vllm_runner
    from latentmas_ray.writing.load import load_text_runner

    setups: dict[tuple[str, AgentModel, int], TextSetup] = {}
    found = {}
    for agent, choice in choices.items():
        engine, one = choice.engine, models.team.by_agent[agent]
        samples = config.samples if topology.answers(agent) else 1
        if (engine, one, samples) in setups:
            found[agent] = setups[engine, one, samples]
            continue
        num_questions, named = config.written_at_once(engine), models.loading(one, topology)
        max_running = num_questions * samples  # texts
        make_runner: Callable[[], TextRunner] = partial(
            load_text_runner,
            models.place_of(one),
            max_running=max_running,
            get_share=device_share,
            executes_turns=bool(config.trace) or config.transfer != "kv" or bool(named["reads_from"]),
            **named,
            **loading,
        )
        if engine == "vllm":
            place = models.place_of(one)
            assert isinstance(place, str), "the choice of engines refuses objects"
            make_runner = partial(
                load_vllm_runner,
                place,
                dtype=one.dtype,
                revision=one.revision or None,
                max_running=max_running,
                sampler=config.sampler,
                takes_inputs=config.transfer == "recompute",
            )
        found[agent] = TextSetup(make_runner=make_runner, max_running=num_questions, engine=engine)
        setups[engine, one, samples] = found[agent]
    return found


def make_metrics(config: RunConfig) -> MetricSink | None:
    """Return where the metrics of runs go; None without Ray."""
    if config.runtime != "ray":
        return None
    from latentmas_ray.actors.metrics import RayMetrics

    return RayMetrics()
