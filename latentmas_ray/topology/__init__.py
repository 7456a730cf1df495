"""Topologies: the agents of a run, their prompts, and the DAG of who reads whose working memory. Pure Python.

agent        Agent and Topology, validated when they are made
graph        the rules of the DAG, and its topological order
validation   field types and one-line errors from pydantic's
yaml         topologies from YAML files, and back
marked_yaml  YAML as data that knows its line numbers
prompts      an agent's messages for one question
templates    compiles and renders one template
sandbox      Jinja2's sandbox with bounds on size and time
team         the model of each agent, and where memory is translated
ablations    the topology of a method or of a memory control
corruption   the control that gives one agent a wrong version of the question
hints        an agent that proposes hints, and the copies of a question for them
"""

from latentmas_ray.topology.ablations import (
    MemoryControl,
    apply_control,
    apply_method,
    builtin_for,
    handing_over_thoughts_alone,
)
from latentmas_ray.topology.agent import Agent, AgentMemory, HandsOver, Thinks, Topology
from latentmas_ray.topology.corruption import corrupt_one
from latentmas_ray.topology.hints import apply_hints, ask_with_hints
from latentmas_ray.topology.prompts import RenderedPrompts, format_context, render_messages, seen_by
from latentmas_ray.topology.team import AgentModel, Team, own_models
from latentmas_ray.topology.yaml import BUILTIN, digest_topology, dump_topology, load_topology, parse_topology

__all__ = [
    "BUILTIN",
    "Agent",
    "AgentMemory",
    "AgentModel",
    "HandsOver",
    "MemoryControl",
    "RenderedPrompts",
    "Team",
    "Thinks",
    "Topology",
    "apply_control",
    "apply_hints",
    "apply_method",
    "ask_with_hints",
    "builtin_for",
    "corrupt_one",
    "digest_topology",
    "dump_topology",
    "format_context",
    "handing_over_thoughts_alone",
    "load_topology",
    "own_models",
    "parse_topology",
    "render_messages",
    "seen_by",
]
