"""Topologies: the agents of a run, what each is told, and the DAG of who reads whose working memory.

`agent` holds the data, `load` reads and writes YAML (`nodes` knows lines, `graph` the rules of the DAG), `prompts`
fills in templates (`templates` is the sandbox), `method` turns a topology into the one that a method runs. Pure Python.
"""

from latentmas_ray.topology.agent import Agent, AgentMemory, HandsOver, Thinks, Topology
from latentmas_ray.topology.control import MemoryControl, apply_control
from latentmas_ray.topology.load import BUILTIN, dump_topology, load_topology, parse_topology
from latentmas_ray.topology.method import apply_method, builtin_for
from latentmas_ray.topology.prompts import check_prompts, format_context, render_messages, render_suffix

__all__ = [
    "BUILTIN",
    "Agent",
    "AgentMemory",
    "HandsOver",
    "MemoryControl",
    "Thinks",
    "Topology",
    "apply_control",
    "apply_method",
    "builtin_for",
    "check_prompts",
    "dump_topology",
    "format_context",
    "load_topology",
    "parse_topology",
    "render_messages",
    "render_suffix",
]
