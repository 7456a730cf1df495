"""`latentmas plan`: the GPU of each agent, the memory it needs and the bytes that move; starts nothing."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from latentmas_ray.cli.options import run_options, whole_number
from latentmas_ray.cli.unused_flags import NOTES, tell_unused, with_value
from latentmas_ray.config import MAX_NEW_TOKENS, RunConfig, RunSetting, replicas_by_agent, warn_of_unused
from latentmas_ray.errors import ConfigError, ModelError
from latentmas_ray.placement import (
    HARDWARE,
    PRESETS,
    Hardware,
    LinkSpeeds,
    ModelDims,
    NodeResources,
    Plan,
    PlanRequest,
    Workload,
    dims_of_config,
    hardware_named,
    hardware_of_device,
    known_dims,
    make_plan,
    nodes_alike,
)
from latentmas_ray.placement.prediction.layout_search import LayoutSearch, PredictedPlan, run_of
from latentmas_ray.placement.prediction.throughput import predict
from latentmas_ray.system.engines import EngineChoice, apart, check_engines, choose_engines, describe_engines
from latentmas_ray.topology import load_topology
from latentmas_ray.units import parse_bytes
from latentmas_ray.vllm.installed import obstacle

_MAX_NUMBER = 10**7
_BEST = 3  # layouts that are printed

GPU_MEMORY = "80GB"  # assumed for GPUs that are not on this machine: an A100's
CORES_PER_NODE = 64


PromptTokens = Annotated[str, typer.Option("--prompt-tokens", metavar="N", help="of every agent and question")]
Nodes = Annotated[str | None, typer.Option("--nodes", metavar="N", help="machines of the cluster (default: this one)")]
GpusPerNode = Annotated[str | None, typer.Option("--gpus-per-node", metavar="N", help="(default: as many as here)")]
GpuMemory = Annotated[
    str | None, typer.Option("--gpu-memory", metavar="SIZE", help=f"of each (default: as here, or {GPU_MEMORY})")
]
CpusPerNode = Annotated[
    str | None,
    typer.Option("--cpus-per-node", metavar="N", help=f"(default: as here, or {CORES_PER_NODE} with GPUs)"),
]
SameProcess = Annotated[
    str | None, typer.Option("--same-process", metavar="SPEED|none", help="(default: none, nothing moves)")
]
SameGpu = Annotated[
    str | None, typer.Option("--same-gpu", metavar="SPEED", help="actors that share one (default: 500GB/s)")
]
Nvlink = Annotated[
    str | None, typer.Option("--nvlink", metavar="SPEED|none", help="GPUs of one node (default: 300GB/s)")
]
Pcie = Annotated[str | None, typer.Option("--pcie", metavar="SPEED", help="the same without NVLink (default: 25GB/s)")]
SharedMemory = Annotated[
    str | None, typer.Option("--shared-memory", metavar="SPEED", help="cores of one node (default: 10GB/s)")
]
Network = Annotated[
    str | None,
    typer.Option("--network", metavar="SPEED", help="of each node, which its ranks share (default: 100Gbit/s)"),
]
HardwareName = Annotated[
    str | None,
    typer.Option(
        "--hardware",
        metavar="|".join(HARDWARE),
        help="predict with its published figures, and use its links (default: as here, a100-80gb, or cpu without GPUs)",
    ),
]
TextTokens = Annotated[
    str | None,
    typer.Option("--text-tokens", metavar="N", help="that a text is expected to have (default: as many as it may)"),
]
_DEFAULT_GPU = "a100-80gb"


@run_options(
    "model",
    "revision",
    "topology",
    "placement",
    "replicas",
    "tp",
    "engine",
    "batch_size",
    "decode_batch",
    "latent_steps",
    "max_new_tokens",
    "dtype",
    "address",
    helps={
        "address": "HOST:PORT of a running Ray cluster, or auto: plan for its nodes; nothing is started",
        "replicas": "copies of each agent's actor, or of some agents' actors; auto: fill the cluster so that it "
        "answers the most questions per second, as predicted",
    },
)
def plan(
    config: RunConfig,
    prompt_tokens: PromptTokens = "1000",
    nodes: Nodes = None,
    gpus_per_node: GpusPerNode = None,
    gpu_memory: GpuMemory = None,
    cpus_per_node: CpusPerNode = None,
    same_process: SameProcess = None,
    same_gpu: SameGpu = None,
    nvlink: Nvlink = None,
    pcie: Pcie = None,
    shared_memory: SharedMemory = None,
    network: Network = None,
    hardware: HardwareName = None,
    text_tokens: TextTokens = None,
    compare: Annotated[bool, typer.Option("--compare", help="with --replicas auto: all layouts, not three")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan as one JSON object")] = False,
) -> None:
    """Show which agent would go on which node and GPU, without starting anything.

    For this machine, for the cluster at --address, or for one that you describe (--nodes, --gpus-per-node, …). A plan
    that does not fit says what is missing and what would fit. --model also takes these names, and needs no files for
    them: qwen3-0.6b, -1.7b, -4b, -8b, -14b, -32b; qwen2.5-7b, -14b, -32b, -72b; llama-3.1-8b, -70b; llama-3.3-70b.
    """
    given = {
        "same_process": same_process,
        "same_gpu": same_gpu,
        "nvlink": nvlink,
        "pcie": pcie,
        "shared_memory": shared_memory,
        "network": network,
    }
    named = None if hardware is None else hardware_named(hardware)
    typed = {name: text for name, text in given.items() if text is not None}
    speeds = LinkSpeeds.parse(typed, None if named is None else named.link_speeds())
    described = (nodes, gpus_per_node, gpu_memory or _memory_of(named), cpus_per_node)
    num_prompt_tokens = whole_number("prompt_tokens", prompt_tokens, least=1, most=_MAX_NUMBER)
    planned_nodes = _cluster_at(config.address, *described) if config.address else _cluster(*described)
    topology = load_topology(config.topology)
    is_described = nodes is not None or gpus_per_node is not None
    check_engines(config, topology, has_name=True, runs_here=not is_described)
    engines = choose_engines(config, topology, has_name=True, has_gpu=any(node.whole_gpus for node in planned_nodes))
    request = _request(config, engines, prompt_tokens=num_prompt_tokens, nodes=planned_nodes)
    is_here = gpus_per_node is None and config.address is None
    own = {"replicas": config.replicas, "hardware": hardware, "text_tokens": text_tokens, "compare": compare}
    _tell_unused(config, request, {"gpu_memory": gpu_memory, **own})
    if request.apart and is_described and (problem := obstacle()) is not None:
        NOTES.hold(f"{problem} here: the plan is for nodes that have it")
    search = _search(request, _hardware_of(planned_nodes, named, is_here=is_here), speeds, text_tokens)
    found = _predicted(search, is_auto=config.replicas == "auto", is_asked_for=named is not None)
    made = found[0].plan if found else make_plan(request)
    _tell_unused_links(made, speeds, given, is_predicted=bool(found))
    if as_json:
        told = _to_json(made, speeds, config.model) | {"engines": {name: asdict(one) for name, one in engines.items()}}
        typer.echo(json.dumps(told | _predictions_to_json(search, found), indent=2))
        return
    said = (made, speeds, config.model, describe_engines(topology, engines))
    _print(said, search, found, most=len(found) if compare else _BEST)


def _print(
    said: tuple[Plan, LinkSpeeds, str, str], search: LayoutSearch, found: Sequence[PredictedPlan], *, most: int
) -> None:
    from latentmas_ray.cli.render.layout_tables import layout_report
    from latentmas_ray.cli.render.plan_tables import plan_report
    from latentmas_ray.cli.render.run_tables import results_console

    console = results_console()
    console.print(plan_report(*said))
    if found:
        console.print(layout_report(search, found, most=most))


def _request(
    config: RunConfig, engines: Mapping[str, EngineChoice], *, prompt_tokens: int, nodes: tuple[NodeResources, ...]
) -> PlanRequest:
    topology = load_topology(config.topology)
    names = tuple(agent.name for agent in topology.agents)
    return PlanRequest(
        agents=names,
        replicas=replicas_by_agent(1 if config.replicas == "auto" else config.replicas, names),
        nodes=nodes,
        placement=config.placement,
        tp=config.tp,
        busy_agents=len(names),
        topology=topology,
        model=_figures(config.model, config.revision).in_dtype(config.dtype),
        workload=Workload(
            batch_size=config.batch_size,
            prompt_tokens=prompt_tokens,
            latent_steps=config.latent_steps,
            max_new_tokens=config.max_new_tokens or MAX_NEW_TOKENS,
        ),
        written_at_once={name: config.written_at_once(choice.engine) for name, choice in engines.items()},
        apart=apart(engines),
    )


def _memory_of(hardware: Hardware | None) -> str | None:
    return None if hardware is None or hardware.memory_bytes is None else f"{hardware.memory_bytes}B"


def _search(request: PlanRequest, hardware: Hardware, speeds: LinkSpeeds, text_tokens: str | None) -> LayoutSearch:
    tokens = None if text_tokens is None else whole_number("text_tokens", text_tokens, least=1, most=_MAX_NUMBER)
    return LayoutSearch(request=request, hardware=hardware, speeds=speeds, expected_tokens=tokens)


def _predicted(search: LayoutSearch, *, is_auto: bool, is_asked_for: bool) -> list[PredictedPlan]:
    """Return the predicted plans, the best one first; none if no prediction is asked for."""
    if is_auto:
        return search.find()
    if not is_asked_for:
        return []
    made = make_plan(search.request)
    costs = search.costs(made.request, is_colocated=made.is_colocated)
    return [PredictedPlan(layout=None, plan=made, prediction=predict(made, costs, search.speeds))]


def _hardware_of(nodes: tuple[NodeResources, ...], named: Hardware | None, *, is_here: bool) -> Hardware:
    """Return the named figures, else those of this machine's GPU, those that are assumed for GPUs, or those of
    processors. Raises ConfigError for figures of GPUs on nodes without, and the other way round."""
    has_gpus = any(node.whole_gpus for node in nodes)
    if named is not None:
        if has_gpus == (named.cores is not None):
            expected = "the nodes have GPUs: name theirs" if has_gpus else "the nodes have no GPU: add --gpus-per-node"
            raise ConfigError("hardware", named.name, expected)
        return named
    if not has_gpus:
        return HARDWARE["cpu"]
    if is_here:
        import torch  # takes seconds

        properties = torch.cuda.get_device_properties(0)
        found = hardware_of_device(properties.name, properties.total_memory)
        if found is not None:
            return found
    return HARDWARE[_DEFAULT_GPU]


def _tell_unused(config: RunConfig, request: PlanRequest, flags: Mapping[str, object]) -> None:
    """Tell the flags that change nothing in this plan."""
    topology = request.topology
    assert topology is not None
    steps = tuple(agent.latent_steps for agent in topology.agents if agent.thinks == "latent")
    engines = tuple(agent.engine for agent in topology.agents if agent.thinks == "text")
    run = RunSetting(config=config, num_agents=len(topology.agents), own_steps=steps, own_engines=engines)
    warn_of_unused(run, config.model_fields_set)
    tell_unused("plan", {**flags, "num_gpus": sum(node.num_gpus for node in request.nodes)})


def _tell_unused_links(made: Plan, speeds: LinkSpeeds, given: Mapping[str, str | None], *, is_predicted: bool) -> None:
    used = {link for transfer in made.hand_overs(speeds) for link in transfer.links}
    if made.request.tp > 1 and is_predicted:  # the sums of ranks
        used.add("shared_memory" if not made.share.num_gpus else "nvlink" if speeds.nvlink else "pcie")
    for name, text in given.items():
        # Without NVLink the GPUs of a node are on PCIe.
        is_used = name in used or (name == "nvlink" and text == "none" and "pcie" in used)
        if text is not None and not is_used:
            NOTES.hold(f"{with_value(name, text)} does nothing in this plan: no memory moves over such a link")


def _figures(name: str, revision: str | None) -> ModelDims:
    if revision is None and (figures := known_dims(name)) is not None:
        return figures
    from latentmas_ray.models.load import load_config  # takes seconds

    try:
        return dims_of_config(load_config(name, revision).to_dict(), name)
    except ModelError as error:
        known = f"a plan needs no files for {', '.join(PRESETS)}"
        raise ModelError(error.field, error.value, f"{error.expected}; {known}") from error


def _cluster(
    nodes: str | None, gpus_per_node: str | None, gpu_memory: str | None, cpus_per_node: str | None
) -> tuple[NodeResources, ...]:
    """Return the nodes that the flags describe; values that are not given are those of this machine."""
    here = _gpus_here() if gpus_per_node is None else []
    num_gpus = len(here) if gpus_per_node is None else whole_number("gpus_per_node", gpus_per_node, least=0, most=1024)
    cores = len(os.sched_getaffinity(0)) if not num_gpus or gpus_per_node is None else CORES_PER_NODE
    size = min(here) if here and gpu_memory is None else _size(gpu_memory or GPU_MEMORY)
    return nodes_alike(
        1 if nodes is None else whole_number("nodes", nodes, least=1, most=4096),
        num_gpus=num_gpus,
        num_cpus=cores
        if cpus_per_node is None
        else whole_number("cpus_per_node", cpus_per_node, least=1, most=_MAX_NUMBER),
        gpu_bytes=size if num_gpus else None,
    )


def _cluster_at(address: str, *described: str | None) -> tuple[NodeResources, ...]:
    """Return the nodes of a running cluster. Ray does not report the size of GPUs, so that must be given."""
    nodes, gpus_per_node, gpu_memory, cpus_per_node = described
    if nodes or gpus_per_node or cpus_per_node:
        raise ConfigError("address", address, "a running cluster tells its nodes, GPUs and cores: give only gpu_memory")
    from dataclasses import replace

    from latentmas_ray.actors.cluster import connect

    cluster = connect(address)
    try:
        size = None if gpu_memory is None else _size(gpu_memory)
        return tuple(replace(node, gpu_bytes=size) for node in cluster.nodes)
    finally:
        cluster.disconnect()


def _gpus_here() -> list[int]:
    """Return the bytes of each GPU of this machine."""
    import torch  # takes seconds

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_properties(gpu).total_memory for gpu in range(count)]


def _size(text: str) -> int:
    try:
        size = parse_bytes(text)
    except ValueError as problem:
        raise ConfigError("gpu_memory", text, str(problem)) from None
    if size < 1:
        raise ConfigError("gpu_memory", text, "it must be a size such as 80GB or 40GiB")
    return size


def _to_json(made: Plan, speeds: LinkSpeeds, model: str) -> dict[str, Any]:
    request, figures = made.request, made.request.model
    assert figures is not None
    return {
        "model": model,
        "num_parameters": figures.num_parameters,
        "dtype": figures.dtype,
        "bytes_per_token": figures.bytes_per_token,
        "workload": asdict(request.workload),
        "placement": made.strategy,
        "why": made.why,
        "tp": request.tp,
        "replicas": dict(request.replicas),
        "actor": asdict(made.share),
        "nodes": [asdict(node) for node in request.nodes],
        "demands": [asdict(demand) for demand in made.memory_estimates.values()],
        "shards": [
            {
                "agents": list(shard.replica_id.agents),
                "replica": shard.replica_id.replica,
                "rank": shard.rank,
                **asdict(shard.slot),
                **asdict(made.memory_of(shard.replica_id)),
            }
            for shard in made.shards()
        ],
        "loading_bytes": [made.loading_bytes.get(node, 0) for node in range(len(request.nodes))],
        "speeds": asdict(speeds),
        "hand_overs": [asdict(one) for one in made.hand_overs(speeds)],
    }


def _predictions_to_json(search: LayoutSearch, found: list[PredictedPlan]) -> dict[str, Any]:
    """Return the figures that are predicted, and all plans that were; nothing if none was."""
    if not found:
        return {}
    from latentmas_ray.cli.render.layout_tables import run_flags

    return {
        "hardware": asdict(search.device_hardware),
        "run": None if (run := run_of(found)) is None else run_flags(run[1]),
        "predicted": [
            {
                "placement": one.plan.strategy,
                "tp": one.plan.request.tp,
                "replicas": dict(one.plan.request.replicas),
                "use": one.prediction.use,
                **asdict(one.prediction),
            }
            for one in found
        ],
    }
