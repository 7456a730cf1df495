"""`latentmas plan`: the GPU of each agent, the memory it needs and the bytes that move; starts nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Annotated

import typer

from latentmas_ray import tasks
from latentmas_ray.bench.setting_checks import checked_file
from latentmas_ray.cli.options import run_options, whole_number
from latentmas_ray.cli.planned_nodes import CORES_PER_NODE, GPU_MEMORY, MAX_NUMBER, nodes_at, nodes_here
from latentmas_ray.cli.render.plan.plan_json import plan_to_json, predictions_to_json
from latentmas_ray.cli.unused_flags import NOTES, tell_unused, with_value
from latentmas_ray.config import RunConfig, RunSetting, devices_by_agents, replicas_by_agent, warn_of_unused
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
    make_plan,
)
from latentmas_ray.placement.prediction.hardware import hardware_named_or_in, hardware_to_json
from latentmas_ray.placement.prediction.layout_plans import plan_layout
from latentmas_ray.placement.prediction.layout_search import LayoutSearch, PredictedPlan
from latentmas_ray.system.auto_layout import (
    DEFAULT_GPU,
    check_kind,
    check_layout,
    gpu_here,
    known_hardware,
    text_tokens_of,
    workload_of,
)
from latentmas_ray.system.engines import EngineChoice, apart, check_engines, choose_engines, describe_engines
from latentmas_ray.system.team.run_models import RunModels, dims_of_model, team_of
from latentmas_ray.system.team.states import check_states
from latentmas_ray.system.team.windows import check_windows
from latentmas_ray.topology import AgentModel, Topology, builtin_for, load_topology, own_models
from latentmas_ray.vllm.installed import obstacle

_BEST = 3  # layouts that are printed

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
        metavar=f"{'|'.join(HARDWARE)}|FILE.json",
        help="predict with its published figures, or those in a file of --save, and use its links (default: as here, "
        "a100-80gb, or cpu without GPUs)",
    ),
]
Measure = Annotated[
    bool, typer.Option("--measure", help="predict with what this machine reaches, measured in a few seconds")
]
Save = Annotated[
    str | None, typer.Option("--save", metavar="FILE.json", help="write what --measure finds, for --hardware FILE.json")
]
TextTokens = Annotated[
    str | None,
    typer.Option(
        "--text-tokens",
        metavar="N",
        help="that a text is expected to have (default: as the task's have, or as many as it may)",
    ),
]


@run_options(
    "model",
    "models",
    "revision",
    "task",
    "topology",
    "placement",
    "replicas",
    "tp",
    "engine",
    "batch_size",
    "decode_batch",
    "latent_steps",
    "thoughts",
    "keep",
    "keep_by",
    "max_new_tokens",
    "samples",
    "dtype",
    "address",
    helps={
        "task": "whose own topology is planned, and whose limit and typical length its texts have (default: none)",
        "address": "HOST:PORT of a running Ray cluster, or auto: plan for its nodes; nothing is started",
        "replicas": "copies of each agent's actor, or of some agents' actors; auto: fill the cluster so that it "
        "answers the most questions per second, as predicted",
    },
    starts=("preset",),
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
    measure: Measure = False,
    save: Save = None,
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
    config, topology = _with_models(config)  # refused before anything is measured
    named = _given_hardware(hardware, measures=measure, save=save)
    described = (nodes, gpus_per_node, gpu_memory or _memory_of(named), cpus_per_node)
    num_prompt_tokens = whole_number("prompt_tokens", prompt_tokens, least=1, most=MAX_NUMBER)
    planned_nodes, used = _planned_for(config, described, named)
    speeds = _speeds(given, used)
    check_layout(config, topology)
    is_described = nodes is not None or gpus_per_node is not None
    check_engines(config, topology, has_name=True, runs_here=not is_described)
    engines = choose_engines(config, topology, has_name=True, has_gpu=any(node.whole_gpus for node in planned_nodes))
    request = _request(config, engines, prompt_tokens=num_prompt_tokens, nodes=planned_nodes)
    own = {"replicas": config.replicas, "hardware": named, "text_tokens": text_tokens, "compare": compare}
    _tell_unused(config, request, own | {"gpu_memory": gpu_memory})
    if request.apart and is_described and (problem := obstacle()) is not None:
        NOTES.hold(f"{problem} here: the plan is for nodes that have it")
    figures = _hardware_of(planned_nodes, used, is_here=gpus_per_node is None and config.address is None)
    search = _search(request, figures, speeds, _expected_tokens(config, text_tokens, request.workload.max_new_tokens))
    found = _predicted(search, config, is_asked_for=named is not None)
    made = found[0].plan if found else _planned(request, config)
    _tell_unused_links(made, speeds, given, is_predicted=bool(found))
    if as_json:
        told = plan_to_json(made, speeds, config) | {"engines": {name: asdict(one) for name, one in engines.items()}}
        typer.echo(json.dumps(told | predictions_to_json(search, found), indent=2))
        return
    said = (made, speeds, config.model_names, describe_engines(topology, engines))
    _print(said, search, found, most=len(found) if compare else _BEST)


def _print(
    said: tuple[Plan, LinkSpeeds, str, str], search: LayoutSearch, found: Sequence[PredictedPlan], *, most: int
) -> None:
    from latentmas_ray.cli.render.plan.layout_tables import layout_report, measured_report
    from latentmas_ray.cli.render.plan.plan_tables import plan_report
    from latentmas_ray.cli.render.run_tables import results_console

    console = results_console()
    console.print(plan_report(*said))
    if search.hardware.is_measured:
        console.print(measured_report(search.hardware))
    if found:
        console.print(layout_report(search, found, most=most))


def _request(
    config: RunConfig, engines: Mapping[str, EngineChoice], *, prompt_tokens: int, nodes: tuple[NodeResources, ...]
) -> PlanRequest:
    config, topology = _with_models(config)
    names = tuple(agent.name for agent in topology.agents)
    team = team_of(config, topology)
    models = RunModels.of(config, topology)
    first, others = team.models[0], {name: one for name, one in team.by_agent.items() if one != team.models[0]}
    with_states = frozenset(agent for agent in names if _figures(team.by_agent[agent]).state_bytes)
    check_states(config, topology, with_states)
    return PlanRequest(
        agents=names,
        replicas=replicas_by_agent(1 if config.replicas == "auto" else config.replicas, names),
        nodes=nodes,
        placement=config.placement,
        tp=config.tp,
        busy_agents=len(names),
        topology=topology,
        model=_figures(first),
        other_models={agent: str(one) for agent, one in others.items()},
        other_dims={agent: _figures(one) for agent, one in others.items()},
        workload=workload_of(config, prompt_tokens=prompt_tokens, window=check_windows(config, topology, models)),
        written_at_once={name: config.written_at_once(choice.engine) for name, choice in engines.items()},
        apart=apart(engines),
    )


def _with_models(config: RunConfig) -> tuple[RunConfig, Topology]:
    """Return the configuration with the models that its topology names, too, and that topology. Raises InputError
    for an unknown task or topology, among others."""
    task = config.task if "task" in config.model_fields_set else ""
    if task:
        tasks.check_task(task)
    topology = load_topology(builtin_for(task, config.topology))
    models = own_models(topology, config.model, config.models)
    return (config if models == config.models else config.model_copy(update={"models": models})), topology


def _memory_of(hardware: Hardware | None) -> str | None:
    return None if hardware is None or hardware.memory_bytes is None else f"{hardware.memory_bytes}B"


def _speeds(given: Mapping[str, str | None], named: Hardware | None) -> LinkSpeeds:
    typed = {name: text for name, text in given.items() if text is not None}
    return LinkSpeeds.parse(typed, None if named is None else named.link_speeds())


def _given_hardware(hardware: str | None, *, measures: bool, save: str | None) -> Hardware | None:
    """Return the figures that are named, in a file, or measured here; None if none are asked for."""
    if save is not None and not measures:
        raise ConfigError("save", save, "it is for what --measure finds: give both, or none of the two")
    file = None if save is None else checked_file("save", save, ".json")
    if not measures:
        return None if hardware is None else hardware_named_or_in(hardware)
    if hardware is not None:
        raise ConfigError("hardware", hardware, "with --measure it is what is measured here: give one of the two")
    from latentmas_ray.bench.device import measure_hardware  # needs torch

    found = measure_hardware()
    if file is not None:
        try:
            file.write_bytes(hardware_to_json(found))
        except OSError as error:
            raise ConfigError("save", save, f"it cannot be written: {error.strerror or error}") from error
    return found


def _planned_for(
    config: RunConfig, described: Sequence[str | None], named: Hardware | None
) -> tuple[tuple[NodeResources, ...], Hardware | None]:
    """Return the nodes to plan for, and the figures of their devices if they are named. For `auto` on a running cluster
    they are those with which a run searches there, and so are the sizes of GPUs that are not given."""
    if not config.address:
        return nodes_here(*described), named
    nodes = nodes_at(config.address, *described)
    if named is not None or config.replicas != "auto":
        return nodes, named
    found = known_hardware(None, nodes).hardware
    sized = (
        replace(node, gpu_bytes=node.gpu_bytes or found.memory_bytes) if node.whole_gpus else node for node in nodes
    )
    return tuple(sized), found


def _search(request: PlanRequest, hardware: Hardware, speeds: LinkSpeeds, expected_tokens: int | None) -> LayoutSearch:
    return LayoutSearch(request=request, hardware=hardware, speeds=speeds, expected_tokens=expected_tokens)


def _expected_tokens(config: RunConfig, text_tokens: str | None, most: int) -> int | None:
    """Return how many tokens a text is expected to have: as given, else as those of the task, if one is given. Raises
    ConfigError if more are given than it may have, which are `most`."""
    if text_tokens is not None:
        number = whole_number("text_tokens", text_tokens, least=1, most=MAX_NUMBER)
        if number > most:
            raise ConfigError("text_tokens", number, f"a text may have {most}; give more with max_new_tokens")
        return number
    return text_tokens_of(config.task, config.method) if "task" in config.model_fields_set else None


def _predicted(search: LayoutSearch, config: RunConfig, *, is_asked_for: bool) -> list[PredictedPlan]:
    """Return the predicted plans, the best one first; none if no prediction is asked for."""
    if config.replicas == "auto":
        return search.find()
    return [search.predicted(_planned(search.request, config))] if is_asked_for else []


def _planned(request: PlanRequest, config: RunConfig) -> Plan:
    """Return the plan of a run with these replicas, some of whose agents may be joined by `+`."""
    devices = devices_by_agents(config.replicas, request.agents)
    return make_plan(request) if devices is None else plan_layout(request, devices)


def _hardware_of(nodes: tuple[NodeResources, ...], named: Hardware | None, *, is_here: bool) -> Hardware:
    """Return the named figures, else those of this machine's GPU, those that are assumed for GPUs, or those of
    processors. Raises ConfigError for figures of GPUs on nodes without, and the other way round."""
    has_gpus = any(node.whole_gpus for node in nodes)
    if named is not None:
        check_kind(named, has_gpus=has_gpus, or_else="add --gpus-per-node")
        return named
    if not has_gpus:
        return HARDWARE["cpu"]
    return (gpu_here() if is_here else None) or HARDWARE[DEFAULT_GPU]


def _tell_unused(config: RunConfig, request: PlanRequest, flags: Mapping[str, object]) -> None:
    """Tell the flags that change nothing in this plan."""
    topology = request.topology
    assert topology is not None
    steps = tuple(agent.latent_steps for agent in topology.agents if agent.thinks == "latent")
    engines = tuple(agent.engine for agent in topology.agents if agent.thinks == "text")
    shares = tuple(agent.keep for agent in topology.agents if agent.thinks == "latent")
    run = RunSetting(
        config=config, num_agents=len(topology.agents), own_steps=steps, own_shares=shares, own_engines=engines
    )
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


def _figures(model: AgentModel) -> ModelDims:
    try:
        return dims_of_model(model.name, model.revision or None).in_dtype(model.dtype)
    except ModelError as error:
        known = f"a plan needs no files for {', '.join(PRESETS)}"
        raise ModelError(error.field, error.value, f"{error.expected}; {known}") from error
