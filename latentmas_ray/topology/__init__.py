"""Topologies: the agents of a run, what each is told, and the DAG of who reads whose working memory.

`agent` holds the models (`graph` has the rules of the DAG, `plain` those of text and data, `validation` makes errors),
`yaml` reads and writes files (`marked_yaml` knows lines), `prompts` fills in templates (`templates` is the sandbox),
`ablations` turns a topology into the one that is run. Pure Python.
"""

from latentmas_ray.topology.ablations import MemoryControl, apply_control, apply_method, builtin_for
from latentmas_ray.topology.agent import Agent, AgentMemory, HandsOver, Thinks, Topology
from latentmas_ray.topology.prompts import RenderedPrompts, format_context, render_messages, seen_by
from latentmas_ray.topology.yaml import BUILTIN, dump_topology, load_topology, parse_topology

__all__ = [
    "BUILTIN",
    "Agent",
    "AgentMemory",
    "HandsOver",
    "MemoryControl",
    "RenderedPrompts",
    "Thinks",
    "Topology",
    "apply_control",
    "apply_method",
    "builtin_for",
    "dump_topology",
    "format_context",
    "load_topology",
    "parse_topology",
    "render_messages",
    "seen_by",
]
