"""Reads and writes topologies as YAML. An error is a TopologyError that names file, line, agent and key."""

from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import ScalarNode

from latentmas_ray.errors import TopologyError
from latentmas_ray.paths import expand_home
from latentmas_ray.topology.agent import Topology
from latentmas_ray.topology.marked_yaml import MAX_FILE_BYTES, MarkedYAML
from latentmas_ray.topology.validation import did_you_mean

_BUILTIN_FOLDER = files("latentmas_ray.topology") / "builtin"
BUILTIN = tuple(
    sorted(path.name.removesuffix(".yaml") for path in _BUILTIN_FOLDER.iterdir() if path.name.endswith(".yaml"))
)


def load_topology(name_or_path: str) -> Topology:
    """Load a built-in topology by name, or a FILE.yaml. Raises TopologyError."""
    if name_or_path in BUILTIN:
        text = (_BUILTIN_FOLDER / f"{name_or_path}.yaml").read_text(encoding="utf-8")
        return parse_topology(text, f"{name_or_path} (built in)")
    if not name_or_path.lower().endswith((".yaml", ".yml")):
        expected = f"it must be a built-in topology ({', '.join(BUILTIN)}) or the path of a FILE.yaml"
        raise TopologyError("topology", name_or_path, did_you_mean(name_or_path, BUILTIN) + expected)
    path = expand_home("topology", name_or_path, TopologyError)
    return parse_topology(_read(path), path)


def parse_topology(text: str, source: str) -> Topology:
    """Parse YAML text as a topology, its agents in topological order.

    `source` is the file's name in messages. Raises TopologyError, with a line, unless it is a valid topology.
    """
    marked = MarkedYAML.read(text, source)
    try:
        topology = Topology(**marked.data)
    except TopologyError as error:
        raise marked.located(error) from None
    topology._source = source
    return topology


def dump_topology(topology: Topology) -> str:
    """Return YAML that `parse_topology` reads back into an equal topology (except its `source`)."""
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
        if agent.keep is not None:
            fields["keep"] = agent.keep
        if agent.close_turn:
            fields["close_turn"] = True
        if agent.engine is not None:
            fields["engine"] = agent.engine
        if agent.model is not None:
            fields["model"] = agent.model
        if agent.dtype is not None:
            fields["dtype"] = agent.dtype
        if agent.template:
            fields["template"] = dict(agent.template)
        if agent.suffix:
            fields["suffix"] = agent.suffix
        agents.append(fields)
    document = {
        "name": topology.name,
        **({} if topology.decides is None else {"decides": topology.decides}),
        "agents": agents,
    }
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def digest_topology(topology: Topology) -> str:
    """Return a digest of the agents, their prompts and who reads whom: runs that differ in it are different runs."""
    return blake2b(dump_topology(topology).encode(), digest_size=16).hexdigest()


class _Dumper(yaml.SafeDumper):
    """Writes multi-line text as a literal block, as people write prompts, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> ScalarNode:
    style = "|" if "\n" in text else None
    if any(separator in text for separator in "\x85\u2028\u2029"):
        style = '"'  # YAML treats these as line breaks unless they are escaped
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
