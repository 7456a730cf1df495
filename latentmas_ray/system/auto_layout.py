"""The layout of a run: with `replicas auto` the one with the most predicted questions per second, for the nodes that
are there; with agents joined by `+` the one that is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from latentmas_ray import tasks
from latentmas_ray.config import (
    MAX_NEW_TOKENS,
    RunConfig,
    devices_by_agents,
    format_replicas,
    latent_steps_of,
    most_steps,
)
from latentmas_ray.config.thoughts import parse_thoughts
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement import (
    HARDWARE,
    Hardware,
    NodeResources,
    Plan,
    PlanRequest,
    RunLayout,
    Workload,
    hardware_of_device,
    make_plan,
)
from latentmas_ray.placement.prediction.hardware import hardware_named_or_in, hardware_of_ray
from latentmas_ray.placement.prediction.layout_plans import plan_layout
from latentmas_ray.placement.prediction.layout_search import LayoutSearch
from latentmas_ray.placement.prediction.run_layout import choose_layout
from latentmas_ray.system.engines import EngineChoice, apart
from latentmas_ray.system.team.run_models import RunModels
from latentmas_ray.topology import Topology

DEFAULT_GPU = "a100-80gb"  # whose figures are assumed for GPUs of an unknown kind
_GIVE = "give hardware"
_MIXED_FROM_WORDS = ("soft", "blend")  # rules of thoughts that project each to the vocabulary
_BY_LINK = ("auto", "loopback")  # transports that agents of one actor can have


@dataclass(frozen=True)
class KnownHardware:
    """The figures of a cluster's devices. `about` says which, and why if they are assumed."""

    hardware: Hardware
    about: str


def check_layout(config: RunConfig, topology: Topology) -> None:
    """Raise ConfigError for replicas, a placement or hardware that exclude each other, before anything starts."""
    names = [agent.name for agent in topology.agents]
    if config.hardware is not None:
        hardware_named_or_in(config.hardware)
    if config.replicas == "auto" and config.placement == "spread":
        raise ConfigError("placement", "spread", "with replicas auto it must be auto, pack or colocate")
    if config.replicas == "auto" and config.min_replicas is not None:
        raise ConfigError("min_replicas", config.min_replicas, "with replicas auto the layout is for all: leave it out")
    if devices_by_agents(config.replicas, names) is None:
        return
    text = format_replicas(config.replicas)
    if config.min_replicas is not None:
        expected = "agents joined by + share GPUs, which is planned for all replicas: leave min_replicas out"
        raise ConfigError("replicas", text, expected)
    if config.placement not in ("auto", "pack"):
        expected = f"agents joined by + share GPUs, which placement {config.placement} excludes: use auto or pack"
        raise ConfigError("replicas", text, expected)
    if config.tp > 1:
        raise ConfigError("replicas", text, f"agents joined by + share GPUs, and with tp {config.tp} none can")


def text_tokens_of(task: str, method: str) -> int | None:
    """Return how many tokens a text of this task has as published; None if that is not known."""
    benchmark = tasks.find_benchmark(task)
    return None if benchmark is None else benchmark.text_tokens[method]


class RunPlanner:
    """Plans the actors of one run, at its start and whenever they are placed again."""

    def __init__(
        self,
        config: RunConfig,
        models: RunModels,
        topology: Topology,
        choices: Mapping[str, EngineChoice],
        nodes: tuple[NodeResources, ...],
        busy_agents: int,
    ) -> None:
        """`nodes`: of the cluster now. Raises ConfigError if they are too few or too small, or `hardware` is not
        known."""
        self._config, self._topology, self._models = config, topology, models
        self._choices = choices
        self._names = tuple(agent.name for agent in topology.agents)
        self._devices = devices_by_agents(config.replicas, self._names)
        self.layout: RunLayout | None = None  # as chosen first; None without a search
        self.tp = config.tp
        self._known: tuple[tuple[NodeResources, ...], Plan] | None = None
        if config.replicas == "auto":
            own = nodes if config.device != "cpu" else tuple(replace(node, num_gpus=0.0) for node in nodes)
            plan = self._search(self._first_request(own, busy_agents))
            self.tp, self._known = plan.request.tp, (own, plan)

    @property
    def keeps_layout(self) -> bool:
        """Whether a search or the run's own `replicas` say which agents share a device."""
        return self._known is not None or self._devices is not None

    @property
    def replicas(self) -> int | dict[str, int]:
        """The replicas of the first plan."""
        if self._known is not None:
            return dict(self._known[1].request.replicas)
        assert self._config.replicas != "auto", "a search replaces it"
        return self._config.replicas

    def plan(self, request: PlanRequest) -> Plan:
        """Return the plan of a request, whose replicas are read if they are asked for. Raises ConfigError."""
        if self._devices is not None:
            return plan_layout(request, self._devices)
        if self._config.replicas != "auto":
            return make_plan(request)
        if self._known is None or self._known[0] != request.nodes:
            self._known = request.nodes, self._search(replace(request, tp=self.tp), is_first=False)
        return self._known[1]

    def _first_request(self, nodes: tuple[NodeResources, ...], busy_agents: int) -> PlanRequest:
        return PlanRequest(
            agents=self._names,
            replicas=dict.fromkeys(self._names, 1),
            nodes=nodes,
            tp=self._config.tp,
            busy_agents=busy_agents,
            apart=apart(self._choices),
            other_models={agent: str(one) for agent, one in self._models.others.items()},
        )

    def _search(self, request: PlanRequest, *, is_first: bool = True) -> Plan:
        config = self._config
        known = known_hardware(config.hardware, request.nodes)
        size = known.hardware.memory_bytes
        keeps_apart = config.placement == "auto" and config.transport not in _BY_LINK
        search = LayoutSearch(
            request=replace(
                request,
                nodes=tuple(replace(node, gpu_bytes=size if node.whole_gpus else None) for node in request.nodes),
                placement="pack" if keeps_apart else config.placement,
                topology=self._topology,
                model=self._models.dims(self._models.first),
                other_dims=self._models.other_dims(),
                workload=workload_of(config),
                written_at_once={name: config.written_at_once(choice.engine) for name, choice in self._choices.items()},
            ),
            hardware=known.hardware,
            speeds=known.hardware.link_speeds(),
            expected_tokens=text_tokens_of(config.task, config.method),
            # Ranks do not join a new driver.
            divides_models=is_first and self._models.has_names and config.detach is None,
        )
        about = f"{known.about}, texts of {search.text_tokens} tokens"
        if latent_steps_of(config.latent_steps).may_stop:
            about += f", all of at most {most_steps(config.latent_steps)} latent steps"
        plan, layout = choose_layout(search, about)
        self.layout = self.layout or layout
        return plan


def known_hardware(given: str | None, nodes: tuple[NodeResources, ...]) -> KnownHardware:
    """Return the figures of the devices of these nodes: those that are given, else those of the GPUs that Ray or this
    machine names, else assumed ones. Raises ConfigError for figures of GPUs on nodes without, or the other way
    round."""
    has_gpus = any(node.whole_gpus for node in nodes)
    if given is not None:
        hardware = hardware_named_or_in(given)
        check_kind(hardware, has_gpus=has_gpus)
        return KnownHardware(hardware, f"figures of {hardware.name}")
    if not has_gpus:
        cpu = HARDWARE["cpu"]
        return KnownHardware(cpu, f"figures of {cpu.name} for {_cores(nodes)}")
    names = {node.gpu_name for node in nodes if node.whole_gpus}
    found = [one for name in names if (one := hardware_of_ray(name)) is not None]
    here = gpu_here()
    # This machine tells the size of an A100, too; but a driver may have another GPU than the nodes.
    if here is not None and (not found or (len(names) == 1 and _kind(here) == _kind(found[0]))):
        return KnownHardware(here, f"figures of {here.name}")
    if found:
        slowest = min(found, key=lambda one: one.bytes_per_second)
        more = " (the slowest kind)" if len(names) > 1 else ""
        return KnownHardware(slowest, f"figures of {slowest.name}{more}")
    told = ", ".join(sorted(filter(None, names))) or "an unknown kind"
    assumed = HARDWARE[DEFAULT_GPU]
    return KnownHardware(assumed, f"figures of {assumed.name} assumed, as the GPUs are of {told} ({_GIVE} for theirs)")


def _kind(hardware: Hardware) -> str:
    """Return the kind of a GPU without its size."""
    return hardware.name.partition("-")[0]


def check_kind(hardware: Hardware, *, has_gpus: bool, or_else: str = "name a processor") -> None:
    """Raise ConfigError for figures of GPUs on nodes without (`or_else`: what would be right), and the other way
    round."""
    if has_gpus == (hardware.cores is not None):
        expected = "the nodes have GPUs: name theirs" if has_gpus else f"the nodes have no GPU: {or_else}"
        raise ConfigError("hardware", hardware.name, expected)


def gpu_here() -> Hardware | None:
    """Return the figures of this machine's GPU; None if it has none, or they are not known."""
    import torch  # takes seconds

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return hardware_of_device(properties.name, properties.total_memory)


def workload_of(config: RunConfig, **more: Any) -> Workload:
    """Return the sizes of a run's batches; of its prompts nothing is known yet."""
    benchmark = tasks.find_benchmark(config.task)
    own = None if benchmark is None else benchmark.max_new_tokens
    return Workload(
        batch_size=config.batch_size,
        latent_steps=most_steps(config.latent_steps),
        steps_may_stop=latent_steps_of(config.latent_steps).may_stop,
        thoughts_read_vocabulary=parse_thoughts(config.thoughts).name in _MIXED_FROM_WORDS,
        keep=config.keep,
        samples=config.samples,
        max_new_tokens=config.max_new_tokens or own or MAX_NEW_TOKENS,
        **more,
    )


def _cores(nodes: tuple[NodeResources, ...]) -> str:
    cores = sorted({node.num_cpus for node in nodes if node.num_cpus >= 1})
    return (
        f"{' to '.join(f'{count:g}' for count in dict.fromkeys((cores[0], cores[-1])))} cores" if cores else "no core"
    )
