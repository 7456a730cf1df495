"""A memory in the terminal and as JSON: its model, which agent read which, and its segments."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.cli.render.run_tables import MAX_TEXT_CHARS, named_rows
from latentmas_ray.cli.render.text import printable, shorten
from latentmas_ray.memory import Memory
from latentmas_ray.memory.files import NOTICE
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.units import format_bytes, format_number

_MAX_DEPTH = 6  # of the tree as it is shown; every agent's reads are in the JSON


def memory_row(memory: Memory) -> dict[str, Any]:
    """Return everything but the tensors. Positions are those at which a reader finds the tokens."""
    spec, positions = memory.spec, memory.positions()
    return {
        "notice": NOTICE,
        "model": memory.model,
        "weights_revision": spec and spec.weights_revision,
        "architecture": spec and spec.architecture,
        "num_layers": spec and spec.num_layers,
        "num_kv_heads": spec.num_kv_heads if spec and spec.is_uniform else None,
        "head_dim": spec.head_dim if spec and spec.is_uniform else None,
        "dtype": spec and spec.dtype,
        "question": memory.question,
        "has_kv": memory.has_kv,
        "num_tokens": memory.num_tokens,
        "num_latent_thoughts": memory.num_latent_thoughts,
        "num_positions": memory.num_positions,
        "num_bytes": memory.num_bytes,
        "reads": [root.agent for root in memory.reads],
        "agents": {
            name: {
                "reads": [read.agent for read in memory.tree[name].reads],
                "num_tokens": segment.num_tokens,
                "num_latent_thoughts": segment.num_latent_thoughts,
                "positions": list(positions[name]),
                "num_bytes": segment.num_bytes,
            }
            for name in memory.agents
            if (segment := memory.segments[name])
        },
        "texts": dict(memory.texts),
    }


def memory_view(memory: Memory) -> Iterator[RenderableType]:
    """Yield the parts of the view, from the model to the texts."""
    yield named_rows(dict(_facts(memory)))
    if memory.reads:
        yield ""
        yield _tree(memory)
        yield _segments(memory)
    if memory.texts:
        yield Text("text in its reader's prompt", style="bold")
        yield named_rows({printable(name): shorten(text, MAX_TEXT_CHARS) for name, text in memory.texts.items()})
    yield ""
    yield Text(NOTICE, style="yellow")


def _facts(memory: Memory) -> Iterator[tuple[str, str]]:
    spec = memory.spec
    yield "model", printable(memory.model)
    if spec is not None:
        yield "weights", printable(spec.weights_revision)
        shape = f"{spec.num_kv_heads} KV heads of {spec.head_dim}" if spec.is_uniform else "not all of one shape"
        heads = f"{spec.num_layers} layers, {shape}"
        yield "shape", f"{printable(spec.architecture)}, {heads}, {spec.dtype}"
    yield "question", shorten(memory.question, MAX_TEXT_CHARS)
    if spec is not None:
        yield (
            "tokens",
            f"{format_number(memory.num_tokens)}, {format_number(memory.num_latent_thoughts)} latent thoughts",
        )
        yield "a reader begins", f"at position {format_number(memory.num_positions)}"
        kind = "KV" if memory.has_kv else "recompute inputs only: its reader computes the KV"
        yield "memory", f"{format_bytes(memory.num_bytes)} of {kind}"


def _tree(memory: Memory) -> Tree:
    """Return a tree of which agent read which. A chain is one line; an agent with several readers is expanded once."""
    tree, shown = Tree(Text("read in this order", style="bold")), set[str]()

    def add(parent: Tree, node: AgentMemory, depth: int) -> None:
        chain = [node]
        while len(chain[0].reads) == 1 and chain[0].agent not in shown:
            chain.insert(0, chain[0].reads[0])
        line = " → ".join(one.agent for one in chain)
        is_cut = bool(chain[0].reads) and (chain[0].agent in shown or depth == _MAX_DEPTH)
        branch = parent.add(Text(f"… → {line}" if is_cut else line, overflow="fold"))
        shown.update(one.agent for one in chain)
        for read in () if is_cut else chain[0].reads:
            add(branch, read, depth + 1)

    for root in memory.reads:
        add(tree, root, 1)
    return tree


def _segments(memory: Memory) -> Table:
    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("agent", style="bold", overflow="fold", min_width=8)
    for title in ("tokens", "thoughts", "positions", "KV" if memory.has_kv else "inputs"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, (first, stop) in memory.positions().items():
        segment = memory.segments[name]
        table.add_row(
            Text(name),
            format_number(segment.num_tokens),
            format_number(segment.num_latent_thoughts),
            "none" if stop == first else f"{first}–{stop - 1}",
            format_bytes(segment.num_bytes),
        )
    return table
