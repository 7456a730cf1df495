"""A plan as text: its inputs, a drawing of the nodes, memory and hand-overs, readable at 80 columns."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.cli.render.run_tables import named_rows
from latentmas_ray.config import latent_steps_of
from latentmas_ray.placement import LinkSpeeds, ModelDims, NodeResources, Plan, PlannedActor
from latentmas_ray.units import format_bytes, format_fine_seconds

_COUNTED_IN_FULL = "a question that stops thinking earlier needs less time and memory than is counted here"
_READS_VOCABULARY = "each latent step has a projection to the vocabulary, too"
_LINKS = {
    "same_process": "same process",
    "same_gpu": "same GPU",
    "nvlink": "NVLink",
    "pcie": "PCIe",
    "shared_memory": "shared memory",
    "network": "network",
}


def plan_report(plan: Plan, speeds: LinkSpeeds, model: str, engines: str) -> RenderableType:
    """Return the whole plan, with the numbers from which it can be computed again. `engines` says which engine each
    agent has."""
    return Group(
        "",
        _inputs(plan, speeds, model, engines),
        *_section("who goes where", _picture(plan)),
        *_section("memory of one shard", _memory_table(plan)),
        _memory_notes(plan),
        *_section("hand-overs of one batch", _hand_over_table(plan, speeds)),
        "",
    )


def _section(title: str, body: RenderableType) -> Iterator[RenderableType]:
    yield from ("", Text(f" {title}", style="bold"), body)


def _kv_formula(figures: ModelDims) -> str:
    """How the bytes of a token come about."""
    if figures.cache is not None:
        return f"{figures.cache.token_numbers:,} numbers × {figures.itemsize} B"
    if figures.latent_dim:
        numbers = f"(latent {figures.latent_dim} + rotary key {figures.rotary_key_dim})"
        return f"{figures.num_kv_layers} layers × {numbers} × {figures.itemsize} B"
    heads = f"{figures.num_kv_heads} KV heads × {figures.head_dim} × {figures.itemsize} B"
    return f"2 × {figures.num_kv_layers} layers × {heads}"


def _states(figures: ModelDims) -> str:
    size = f"{figures.state_bytes:,} B ({format_bytes(figures.state_bytes)})"
    return f"{size} for each question, in each segment and in the cache, whatever its length"


def _inputs(plan: Plan, speeds: LinkSpeeds, model: str, engines: str) -> Table:
    request, figures, load = plan.request, plan.request.model, plan.request.workload
    assert figures is not None
    rows = {
        "model": f"{model}, {figures.num_parameters:,} parameters in {figures.dtype}",
        "KV per token": f"{figures.bytes_per_token:,} B = {_kv_formula(figures)}",
        **({} if figures.cache is None else {"cache": figures.cache.kinds}),
        **({"states": _states(figures)} if figures.state_bytes else {}),
        **{f"model of {agent}": _other_model(plan, agent, name) for agent, name in request.other_models.items()},
        "batch": f"{load.batch_size} questions; of each and per agent {load.prompt_tokens} prompt tokens, "
        f"{load.latent_steps} latent steps or {load.max_new_tokens} new tokens",
        **({"latent steps": _COUNTED_IN_FULL} if _may_stop(plan) else {}),
        **({"thoughts": _READS_VOCABULARY} if load.thoughts_read_vocabulary else {}),
        "engines": engines.removeprefix("engine "),
        "cluster": _cluster(request.nodes),
        "placement": f"{plan.strategy}" + ("" if request.placement != "auto" else f" ({plan.why})"),
        "actors": _actors(plan),
        "links": ", ".join(
            f"{_LINKS[name]} {format_bytes(speed)}/s"
            for name, speed in vars(speeds).items()
            if speed is not None and name in _used(plan, speeds)
        )
        or "none: nothing moves",
    }
    return named_rows(rows)


def _may_stop(plan: Plan) -> bool:
    """Whether a question may think fewer steps than are planned for it."""
    topology = plan.request.topology
    assert topology is not None
    own = [agent.latent_steps for agent in topology.agents if agent.thinks == "latent"]
    return any(
        plan.request.workload.steps_may_stop if steps is None else latent_steps_of(steps).may_stop for steps in own
    )


def _other_model(plan: Plan, agent: str, name: str) -> str:
    figures = plan.request.dims_of(agent)
    size = f"{figures.num_parameters:,} parameters in {figures.dtype}"
    states = f" and {figures.state_bytes:,} B of states per question" if figures.state_bytes else ""
    return f"{name}, {size}, {figures.bytes_per_token:,} B of KV per token{states}"


def _used(plan: Plan, speeds: LinkSpeeds) -> set[str]:
    return {link for one in plan.hand_overs(speeds) for link in one.links}


def _cluster(nodes: Iterable[NodeResources]) -> str:
    kinds: dict[str, int] = {}
    for node in nodes:
        size = f" of {format_bytes(node.gpu_bytes)}" if node.gpu_bytes else ""
        gpus = f"{_count(node.num_gpus, 'GPU')}{size}, " if node.num_gpus else ""
        kind = f"{gpus}{_count(node.num_cpus, 'core')}"
        kinds[kind] = kinds.get(kind, 0) + 1
    return "; ".join(f"{_count(number, 'node')} with {kind}" for kind, number in kinds.items())


def _actors(plan: Plan) -> str:
    count, share = len(list(plan.shards())), plan.share
    each = f"{share.num_gpus:g} GPU" if share.num_gpus else _count(share.num_cpus, "core")
    ranks = f", tp {plan.request.tp}" if plan.request.tp > 1 else ""
    return f"{count} with {each} each{ranks}, on {_count(len(plan.nodes_used), 'node')}"


def _picture(plan: Plan) -> Table:
    """Return one line per node with the agents on each GPU. Consecutive empty nodes share a line."""
    on_node: defaultdict[int, list[PlannedActor]] = defaultdict(list)
    for shard in plan.shards():
        on_node[shard.slot.node].append(shard)
    table = FittedTable(box=box.SIMPLE_HEAD, show_header=False, show_edge=False, padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    numbers = range(len(plan.request.nodes))
    for is_used, group in groupby(numbers, key=lambda number: number in on_node):
        members = list(group)
        if is_used:
            for number in members:
                table.add_row(f"node {number}", _gpus(plan, number, on_node[number]))
        else:
            name = f"node {members[0]}" + (f"–{members[-1]}" if len(members) > 1 else "")
            table.add_row(name, Text("free", style="dim"))
    return table


def _gpus(plan: Plan, number: int, shards: list[PlannedActor]) -> Text:
    if not plan.share.num_gpus:
        return Text("cores: " + ", ".join(_name(plan, shard) for shard in shards))
    on_gpu: defaultdict[int | None, list[str]] = defaultdict(list)
    for shard in shards:
        on_gpu[shard.slot.gpu].append(_name(plan, shard))
    cells = []
    all_gpus = range(plan.request.nodes[number].whole_gpus)
    for is_used, group in groupby(all_gpus, key=lambda gpu: gpu in on_gpu):
        members = list(group)
        if is_used:
            cells += [f"{gpu}:{'+'.join(on_gpu[gpu])}" for gpu in members]
        else:
            cells.append(f"{members[0]}" + (f"–{members[-1]}" if len(members) > 1 else "") + ":free")
    return Text("[ " + " | ".join(cells) + " ]")


def _name(plan: Plan, shard: PlannedActor) -> str:
    name = "all" if plan.is_colocated and len(shard.replica_id.agents) > 1 else shard.replica_id.agents[0]
    has_more = max(plan.request.replicas[agent] for agent in shard.replica_id.agents) > 1
    return (
        name + (f"/{shard.replica_id.replica}" if has_more else "") + (f".{shard.rank}" if plan.request.tp > 1 else "")
    )


def _memory_table(plan: Plan) -> Table:
    columns = ("own", "read", "in\ncache", "weights", "KV", "seg-\nments", "allow-\nance", "total")
    table = _make_table("tokens:", *columns)
    for replica_id in dict.fromkeys(shard.replica_id for shard in plan.shards()):
        if replica_id.replica:
            continue
        memory = plan.memory_of(replica_id)
        largest = max(
            (plan.memory_estimates[agent] for agent in replica_id.agents), key=lambda demand: demand.cache_tokens
        )
        parts = (memory.weights_bytes, memory.kv_bytes, memory.segments_bytes, memory.allowance_bytes)
        table.add_row(
            Text(" " + (replica_id.agents[0] if len(replica_id.agents) == 1 else "all agents")),
            *map(str, (largest.own_tokens, largest.read_tokens, largest.cache_tokens)),
            *map(format_bytes, (*parts, memory.total_bytes)),
        )
    return table


def _memory_notes(plan: Plan) -> Text:
    request, figures = plan.request, plan.request.model
    assert figures is not None
    by_tp = f" / {request.tp}" if request.tp > 1 else ""
    in_segments = "handed over by all agents" if plan.is_colocated else "read and handed over"
    lines = [
        f"weights = ({figures.shared_out_parameters:,}{by_tp} + {figures.whole_parameters:,}) × {figures.itemsize} B",
        f"KV = cache tokens × {_questions(plan)} × {figures.bytes_per_token:,} B{by_tp}{_and_states(figures)}",
        f"segments = the same for the tokens that are {in_segments}",
        "allowance = 2 GB fixed + activations of a forward + logits",
    ]
    if request.other_models:
        lines.insert(2, f"weights and KV of {', '.join(request.other_models)}: the same with the sizes of its model")
    if any(slot.gpu is not None for slot in plan.memory):
        slot, fullest = max(plan.memory.items(), key=lambda item: item[1].total_bytes)
        size = request.nodes[slot.node].gpu_bytes
        lines.append(
            f"the fullest GPU is {slot.gpu} of node {slot.node}: {format_bytes(fullest.total_bytes)}"
            + (f" of {format_bytes(size)}" if size else "")
        )
    if plan.loading_bytes:
        node, size = max(plan.loading_bytes.items(), key=lambda item: item[1])
        lines += [
            f"host memory of node {node} while actors start: {format_bytes(size)}, since each actor",
            "with vLLM first loads the whole model once on the CPU",
        ]
    return Text("\n".join(f" {line}" for line in lines), style="dim")


def _and_states(figures: ModelDims) -> str:
    return f" + questions × {figures.state_bytes:,} B of states" if figures.state_bytes else ""


def _questions(plan: Plan) -> str:
    """Return the questions of a batch, and those of the agents that write another number at the same time."""
    batch = plan.request.workload.batch_size
    found = {} if plan.is_colocated else plan.request.written_at_once
    others = [f"{name} {count}" for name, count in found.items() if count != batch]
    return f"{batch} questions" + (f" ({', '.join(others)})" if others else "")


def _hand_over_table(plan: Plan, speeds: LinkSpeeds) -> RenderableType:
    found = plan.hand_overs(speeds)
    if not found:
        return Text(" none: the agents hand over text, or there is one", style="dim")
    table = _make_table("reader", "segment of", "tokens per\nquestion", "bytes", "link", "time")
    for one in found:
        name = next(iter(one.links)) if len(one.links) == 1 else None
        links = _LINKS[name] if name else ", ".join(f"{count}× {_LINKS[link]}" for link, count in one.links.items())
        cells = (str(one.tokens), f"{one.num_bytes:,}", links, format_fine_seconds(one.seconds))
        table.add_row(Text(f" {one.reader}"), Text(one.source), *cells)
    moved = sum(one.num_bytes for one in found if set(one.links) != {"same_process"})
    seconds = format_fine_seconds(sum(one.seconds for one in found))
    total = f" {format_bytes(moved)} move for a batch, {seconds} one after another"
    by_tp = f" / {plan.request.tp}" if plan.request.tp > 1 else ""
    states = " + questions × states" if plan.request.dims_of(found[0].source).state_bytes else ""
    formula = f" bytes = tokens × questions × KV per token{states}; time = bytes{by_tp} / speed of the link"
    if plan.request.other_models:
        formula += "\n between different models bytes are those of the recompute inputs: token ids and thoughts"
    if by_tp and any("network" in one.links for one in found):
        formula += "\n over the network time = bytes / speed: the ranks of a node share its network"
    return Group(table, Text(f"{total}\n{formula}", style="dim"))


def _make_table(first: str, *columns: str) -> Table:
    table = FittedTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(f" {first}", no_wrap=True)
    for column in columns:
        is_text = column in ("segment of", "link")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    return table


def _count(number: float, thing: str) -> str:
    return f"{number:g} {thing}" if number == 1 else f"{number:g} {thing}s"
