"""Topologies from YAML and back. Every refusal is a TopologyError that names file, line, agent and key."""

import re
from collections.abc import Callable
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import ScalarNode, SequenceNode

from latentmas_ray.errors import TopologyError
from latentmas_ray.topology.agent import Agent, Topology
from latentmas_ray.topology.graph import MAX_AGENTS, arrange
from latentmas_ray.topology.nodes import MAX_FILE_BYTES, Item, compose
from latentmas_ray.topology.templates import find_problem

MAX_LATENT_STEPS = 100_000

_BUILTIN_FOLDER = files("latentmas_ray.topology") / "builtin"
BUILTIN = tuple(
    sorted(path.name.removesuffix(".yaml") for path in _BUILTIN_FOLDER.iterdir() if path.name.endswith(".yaml"))
)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_TOP_KEYS = ("name", "agents")
_LATENT_KEYS = ("latent_steps", "hands_over", "close_turn")
_AGENT_KEYS = ("name", "thinks", "system", "prompt", "reads", *_LATENT_KEYS, "template", "suffix")
_ENGINE_ARGUMENTS = ("conversation", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict")
_PARSERS: dict[str, Callable[[Item], Any]] = {
    "thinks": lambda item: item.one_of(("latent", "text")),
    "system": lambda item: _template(item),
    "prompt": lambda item: _template(item),
    "suffix": lambda item: _template(item),
    "reads": lambda item: tuple(name.string() for name in _names(item)),
    "latent_steps": lambda item: item.whole_number(0, MAX_LATENT_STEPS),
    "hands_over": lambda item: item.one_of(("all", "prompt", "latents")),
    "close_turn": lambda item: item.boolean(),
    "template": lambda item: _template_arguments(item),
}


def load_topology(name_or_path: str) -> Topology:
    """The built-in topology of that name, or the one in that FILE.yaml. Raises TopologyError."""
    if name_or_path in BUILTIN:
        text = (_BUILTIN_FOLDER / f"{name_or_path}.yaml").read_text(encoding="utf-8")
        return parse_topology(text, f"{name_or_path} (built in)")
    if not name_or_path.lower().endswith((".yaml", ".yml")):
        near = get_close_matches(name_or_path, BUILTIN, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        expected = f"{hint}it must be a built-in topology ({', '.join(BUILTIN)}) or the path of a FILE.yaml"
        raise TopologyError("topology", name_or_path, expected)
    return parse_topology(_read(name_or_path), name_or_path)


def parse_topology(text: str, source: str) -> Topology:
    """The topology that the YAML `text` describes, its agents in topological order.

    `source` is the file's name for messages. Raises TopologyError, with a line, for everything that is not a
    valid topology.
    """
    root = compose(text, source)
    fields = root.mapping(_TOP_KEYS)
    for key in _TOP_KEYS:
        if key not in fields:
            root.refuse("it is missing", key=key, value="nothing")
    name = fields["name"].string()
    if not name.strip() or len(name) > 100 or not name.isprintable():
        fields["name"].refuse("it must be one line of at most 100 characters")
    entries = fields["agents"].sequence("it must be a list of agents (lines that begin with `- name: …`)")
    if not 1 <= len(entries) <= MAX_AGENTS:
        fields["agents"].refuse(f"it must list 1 to {MAX_AGENTS} agents", value=f"{len(entries)} agents")
    items: dict[str, Item] = {}
    agents = []
    for entry in entries:
        agent, item = _parse_agent(entry)
        if agent.name in items:
            expected = f"the agent in line {items[agent.name].line} has this name too; names must differ"
            item.mapping()["name"].refuse(expected)
        items[agent.name] = item
        agents.append(agent)

    def refuse(agent: str, key: str, value: str, expected: str) -> NoReturn:
        item = items[agent]
        item.refuse(expected, value=value, key=key, line=_line_of(item, key, value))

    return Topology(name=name, agents=arrange(agents, refuse), source=source)


def dump_topology(topology: Topology) -> str:
    """YAML that `parse_topology` reads back into an equal topology (its `source` aside)."""
    agents = []
    for agent in topology.agents:
        fields: dict[str, Any] = {"name": agent.name, "thinks": agent.thinks}
        if agent.reads:
            fields["reads"] = list(agent.reads)
        if agent.system is not None:
            fields["system"] = agent.system
        fields["prompt"] = agent.prompt
        if agent.latent_steps is not None:
            fields["latent_steps"] = agent.latent_steps
        if agent.hands_over != "all":
            fields["hands_over"] = agent.hands_over
        if agent.close_turn:
            fields["close_turn"] = True
        if agent.template:
            fields["template"] = dict(agent.template)
        if agent.suffix:
            fields["suffix"] = agent.suffix
        agents.append(fields)
    document = {"name": topology.name, "agents": agents}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, the way people write prompts, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> ScalarNode:
    style = "|" if "\n" in text else None
    if any(separator in text for separator in "\x85\u2028\u2029"):
        style = '"'  # YAML folds these like line breaks unless they are escaped
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _read(path: str) -> str:
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise TopologyError("topology", path, "it must be a file")
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, TopologyError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TopologyError("topology", path, f"the file cannot be read: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise TopologyError(path, f"more than {MAX_FILE_BYTES} bytes", "it is too large for a topology file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{data[error.start]:02x}"
        raise TopologyError(f"{path}:{line}", byte, "the file must be UTF-8 text") from None


def _parse_agent(entry: Item) -> tuple[Agent, Item]:
    name = entry.peek("name")
    item = entry.at(f"agents.{name}") if name is not None and _NAME.fullmatch(name) else entry
    fields = item.mapping(_AGENT_KEYS)
    for key in ("name", "prompt"):
        if key not in fields:
            item.refuse("it is missing", key=key, value="nothing")
    if not _NAME.fullmatch(fields["name"].string()):
        fields["name"].refuse("it must begin with a letter and hold only letters, digits, - and _ (64 at most)")
    values = {key: _PARSERS[key](field) for key, field in fields.items() if key != "name"}
    if not values["prompt"].strip():
        fields["prompt"].refuse("it must not be empty")
    agent = Agent(name=fields["name"].string(), **values)
    if agent.thinks == "text":
        for key in _LATENT_KEYS:
            if key in fields:
                fields[key].refuse("only a latent agent has it; this one thinks in text")
    elif agent.latent_steps == 0 and agent.hands_over == "latents":
        fields["hands_over"].refuse("with latent_steps: 0 there are no latents to hand over")
    return agent, item


def _names(item: Item) -> list[Item]:
    return [item] if isinstance(item.node, ScalarNode) else item.sequence("it must be a list of agents' names")


def _template(item: Item) -> str:
    text = item.string()
    problem = find_problem(text)
    if problem is not None:
        line, reason = problem
        mark = item.node.start_mark
        is_block = isinstance(item.node, ScalarNode) and item.node.style == "|"
        # Only a literal block keeps the lines of the file; anything else is placed where it begins.
        shown = text.splitlines()[line - 1 : line]
        item.refuse(reason, value=shown[0].strip() if shown else text, line=mark.line + 1 + (line if is_block else 0))
    return text


def _template_arguments(item: Item) -> dict[str, Any]:
    arguments = item.mapping()
    for key in _ENGINE_ARGUMENTS:
        if key in arguments:
            arguments[key].refuse("the engine sets this one itself")
    return {key: value.plain() for key, value in arguments.items()}


def _line_of(item: Item, key: str, value: str) -> int | None:
    """The line of `value` where it is an element of the list under `key`, else of `key`, else of the agent."""
    field = item.mapping().get(key)
    if field is None:
        return None
    elements = field.node.value if isinstance(field.node, SequenceNode) else []
    lines = [node.start_mark.line + 1 for node in elements if node.value == value]
    return lines[-1] if lines else field.line
