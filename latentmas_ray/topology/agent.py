"""Agents and the DAG between them: who reads whose working memory, and who answers. Pure Python."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self, get_args

from pydantic import Field, PrivateAttr, field_validator, model_validator

from latentmas_ray.errors import TopologyError
from latentmas_ray.topology.graph import MAX_AGENTS, arrange
from latentmas_ray.topology.plain_data import Template, Text, plain_mapping
from latentmas_ray.topology.validation import Path, RuleError, ValidatedModel, place

Thinks = Literal["latent", "text"]
HandsOver = Literal["all", "prompt", "latents"]

MAX_LATENT_STEPS = 100_000
LATENT_KEYS = ("latent_steps", "hands_over", "close_turn")
SAME_NAME = "names must differ, and another agent has this one"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_ENGINE_ARGUMENTS = ("conversation", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict")


class Agent(ValidatedModel):
    """One participant: its role, its prompt, what it reads and how it thinks.

    Raises TopologyError, its field `agents.NAME.KEY`, for a value that breaks a rule.
    """

    name: Text
    thinks: Thinks = "latent"
    system: Template | None = None  # Jinja2, as `prompt` and `suffix`
    prompt: Template
    reads: Sequence[Text] = ()  # names of agents; one name alone may be given as text. A tuple once it is made
    latent_steps: Annotated[int, Field(ge=0, le=MAX_LATENT_STEPS)] | None = None  # None: those of the run
    hands_over: HandsOver = "all"
    close_turn: bool = False  # whether the tokens that end a turn are part of its memory
    template: Mapping[str, Any] = Field(default_factory=dict)  # further arguments of the model's chat template
    suffix: Template = ""  # follows the generation prompt

    EXPECTED: ClassVar[Mapping[str, str]] = {
        "name": "it must be text",
        "thinks": f"it must be one of {', '.join(get_args(Thinks))}",
        "system": "it must be text",
        "prompt": "it must be text",
        "reads": "it must be text (one agent's name) or a list of agents' names",
        "latent_steps": f"it must be a whole number from 0 to {MAX_LATENT_STEPS}",
        "hands_over": f"it must be one of {', '.join(get_args(HandsOver))}",
        "close_turn": "it must be true or false",
        "template": "it must be a mapping (key: value lines)",
        "suffix": "it must be text",
    }

    @classmethod
    def where(cls, path: Path, fields: Mapping[str, Any]) -> str:
        name = fields.get("name")
        return place(f"agents.{name}" if _is_name(name) else "agent", path)

    def __hash__(self) -> int:
        return hash((self.name, self.prompt, self.reads))  # `template` is a dict, which has none

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _is_name(name):
            raise RuleError(name, "it must begin with a letter and hold only letters, digits, - and _ (64 at most)")
        return name

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: str) -> str:
        if not prompt.strip():
            raise RuleError(prompt, "it must not be empty")
        return prompt

    @field_validator("reads", mode="before")
    @classmethod
    def _as_tuple(cls, reads: object) -> object:
        return (reads,) if isinstance(reads, str) else tuple(reads) if isinstance(reads, list) else reads

    @field_validator("template", mode="before")
    @classmethod
    def _check_template(cls, template: object) -> dict[str, Any]:
        arguments = plain_mapping(template)
        for key in _ENGINE_ARGUMENTS:
            if key in arguments:
                raise RuleError(arguments[key], "the engine sets this one itself", key)
        return arguments

    @model_validator(mode="after")
    def _check_latent(self) -> Self:
        if self.thinks == "text":
            for key in LATENT_KEYS:
                value = getattr(self, key)
                if key in self.model_fields_set and value is not None:
                    raise RuleError(value, "only a latent agent has it; this one thinks in text", key)
        elif self.latent_steps == 0 and self.hands_over == "latents":
            raise RuleError("latents", "with latent_steps: 0 there are no latents to hand over", "hands_over")
        return self


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class AgentMemory:
    """The working memory of one agent: the merge of what it read, in this order, then its own segment.

    A tree of names, not of tensors: the driver sends it along with the segments, and whoever reads them
    (`memory.merge`) computes from it where each segment stands.
    """

    agent: str
    reads: tuple["AgentMemory", ...] = ()

    def agents(self) -> tuple[str, ...]:
        """All agents whose segments this memory holds, each once, in the order of the merged sequence."""
        seen: dict[str, None] = {}
        for branch in self.reads:
            seen.update(dict.fromkeys(branch.agents()))
        seen[self.agent] = None
        return tuple(seen)


class Topology(ValidatedModel):
    """A DAG of agents of which exactly one, that nobody reads, answers.

    The agents may be given in any order; they are kept in topological order. Raises TopologyError, its field
    `agents.NAME.KEY`, for whatever breaks a rule.
    """

    name: Text
    agents: Sequence[Agent]  # a tuple once it is made

    _source: str = PrivateAttr("")

    EXPECTED: ClassVar[Mapping[str, str]] = {"name": "it must be text"}

    @classmethod
    def load(cls, name_or_path: str) -> "Topology":
        """The built-in topology of that name, or the one in that FILE.yaml. Raises TopologyError."""
        from latentmas_ray.topology.yaml import load_topology

        return load_topology(name_or_path)

    @classmethod
    def parse(cls, text: str, source: str = "text") -> "Topology":
        """The topology that the YAML `text` describes; `source` is its name in messages. Raises TopologyError, its
        field `SOURCE:LINE: agents.NAME.KEY`."""
        from latentmas_ray.topology.yaml import parse_topology

        return parse_topology(text, source)

    def to_yaml(self) -> str:
        """YAML that `parse` reads back into an equal topology."""
        from latentmas_ray.topology.yaml import dump_topology

        return dump_topology(self)

    @classmethod
    def where(cls, path: Path, fields: Mapping[str, Any]) -> str:
        match path:
            case ("agents", int(index), *rest):
                entry = fields["agents"][index]
                name = entry.get("name") if isinstance(entry, Mapping) else getattr(entry, "name", None)
                return place(f"agents.{name}" if _is_name(name) else f"agents[{index}]", tuple(rest))
        return place("", path)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.strip() or len(name) > 100 or not name.isprintable():
            raise RuleError(name, "it must be one line of at most 100 characters")
        return name

    @field_validator("agents", mode="before")
    @classmethod
    def _arrange(cls, entries: object) -> tuple[Agent, ...]:
        if not isinstance(entries, list | tuple):
            raise RuleError(entries, "it must be a list of agents (lines that begin with `- name: …`)")
        if not 1 <= len(entries) <= MAX_AGENTS:
            raise RuleError(f"{len(entries)} agents", f"it must list 1 to {MAX_AGENTS} agents")
        agents = [_as_agent(entry, index) for index, entry in enumerate(entries)]
        places: dict[str, int] = {}
        for index, agent in enumerate(agents):
            if agent.name in places:
                raise RuleError(agent.name, SAME_NAME, index, "name")
            places[agent.name] = index

        def refuse(agent: str, key: str, value: str, expected: str) -> NoReturn:
            raise RuleError(value, expected, places[agent], *([key] if key else []))

        return arrange(agents, refuse)

    @property
    def source(self) -> str:
        """The file it came from, for messages; empty if it was made in Python."""
        return self._source

    def at(self, path: str) -> str:
        """A place in it, behind the file that it came from, for messages."""
        return f"{self._source}: {path}" if self._source else path

    def __eq__(self, other: object) -> bool:
        """Of the same agents; wherever it came from."""
        return isinstance(other, Topology) and (self.name, self.agents) == (other.name, other.agents)

    def __hash__(self) -> int:
        return hash((self.name, self.agents))

    def replace(self, **changes: Any) -> "Topology":
        made = super().replace(**changes)
        made._source = self._source
        return made

    @cached_property
    def by_name(self) -> dict[str, Agent]:
        return {agent.name: agent for agent in self.agents}

    @cached_property
    def answering_agent(self) -> Agent:
        """The one agent that nobody reads; it decodes the answer."""
        read = {name for agent in self.agents for name in agent.reads}
        (answering,) = (agent for agent in self.agents if agent.name not in read)
        return answering

    @cached_property
    def width(self) -> int:
        """The largest number of agents that can work on one batch at the same time: those of one depth."""
        depths: dict[str, int] = {}
        for agent in self.agents:
            depths[agent.name] = max((depths[read] + 1 for read in agent.reads), default=0)
        return max(Counter(depths.values()).values())

    def memory_of(self, name: str) -> AgentMemory:
        """What `name` hands over: the tree of latent agents behind it and itself."""
        return AgentMemory(name, self.memory_read_by(name))

    def memory_read_by(self, name: str) -> tuple[AgentMemory, ...]:
        """The memories that `name` starts from, in the order of its `reads`; text agents hand over none."""
        return tuple(self.memory_of(read) for read in self.by_name[name].reads if self.by_name[read].thinks == "latent")

    def text_ancestors(self, name: str) -> tuple[Agent, ...]:
        """Every text agent that `name` reads, directly or through other text agents, in topological order."""
        wanted, todo = set(), [name]
        while todo:
            for read in self.by_name[todo.pop()].reads:
                if self.by_name[read].thinks == "text" and read not in wanted:
                    wanted.add(read)
                    todo.append(read)
        return tuple(agent for agent in self.agents if agent.name in wanted)


def _as_agent(entry: object, index: int) -> Agent:
    if isinstance(entry, Agent):
        return entry
    if not isinstance(entry, Mapping):
        raise RuleError(entry, "it must be an Agent or a mapping (key: value lines)", index)
    for key in entry:
        if not isinstance(key, str):
            raise RuleError(key, "a key must be text", index)
    try:
        return Agent(**entry)
    except TopologyError as error:
        raise RuleError(error.value, error.expected, index, *error.path) from None
