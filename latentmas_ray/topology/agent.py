"""Agent and Topology: participants, and the DAG of who reads whose working memory. Pure Python."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self, get_args

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from latentmas_ray.config.choices import DecisionRule
from latentmas_ray.config.latent_steps import LATENT_STEPS_FORM, StepsSetting, parse_latent_steps
from latentmas_ray.errors import TopologyError
from latentmas_ray.topology.graph import MAX_AGENTS, arrange
from latentmas_ray.topology.validation import (
    Path,
    RuleError,
    Template,
    Text,
    ValidatedModel,
    join_path,
    plain_mapping,
)

Thinks = Literal["latent", "text"]
HandsOver = Literal["all", "prompt", "latents", "latents+sink"]
# The parts without the prompt; with the sink, its first token alone.
LATENT_PARTS: tuple[HandsOver, ...] = ("latents", "latents+sink")
TextEngineName = Literal["auto", "transformers", "vllm"]
ModelDType = Literal["auto", "float32", "bfloat16"]

LATENT_KEYS: tuple[str, ...] = ("latent_steps", "hands_over", "keep", "close_turn")
TEXT_KEYS: tuple[str, ...] = ("engine",)
SAME_NAME = "names must differ, and another agent has this one"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_ENGINE_ARGUMENTS = ("conversation", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict")


class Agent(ValidatedModel):
    """One participant: its role, its prompt, whose memory it reads, and whether it thinks in latent space or in text.

    Raises TopologyError, its field `agents.NAME.KEY`, for an invalid value.
    """

    name: Text
    thinks: Thinks = "latent"
    system: Template | None = None  # Jinja2, like `prompt` and `suffix`
    prompt: Template
    reads: Sequence[Text] = ()  # names of agents; a single name may be given as text. Stored as a tuple
    latent_steps: StepsSetting | None = None  # a number, auto, fill:N or max:N; None: the run's latent_steps
    hands_over: HandsOver = "all"
    keep: Annotated[float, Field(gt=0, le=1)] | None = None  # the share of its prompt's positions; None: the run's keep
    close_turn: bool = False  # whether its memory includes the tokens that end a turn
    engine: TextEngineName | None = None  # what writes its text; None: the run's engine
    model: Annotated[Text, Field(min_length=1)] | None = None  # a name, folder or hub id; None: the run's model
    dtype: ModelDType | None = None  # the number format of its model; None: the run's dtype
    template: Mapping[str, Any] = Field(default_factory=dict)  # extra arguments of the model's chat template
    suffix: Template = ""  # text after the generation prompt

    EXPECTED: ClassVar[Mapping[str, str]] = {
        "name": "it must be text",
        "thinks": f"it must be one of {', '.join(get_args(Thinks))}",
        "system": "it must be text",
        "prompt": "it must be text",
        "reads": "it must be text (one agent's name) or a list of agents' names",
        "latent_steps": LATENT_STEPS_FORM,
        "hands_over": f"it must be one of {', '.join(get_args(HandsOver))}",
        "keep": "it must be a share of the prompt's positions: more than 0 and at most 1",
        "close_turn": "it must be true or false",
        "engine": f"it must be one of {', '.join(get_args(TextEngineName))}",
        "model": "it must be text: tiny, small, tiny-latent, a model folder or a hub id",
        "dtype": f"it must be one of {', '.join(get_args(ModelDType))}",
        "template": "it must be a mapping (key: value lines)",
        "suffix": "it must be text",
    }

    @classmethod
    def where(cls, path: Path, fields: Mapping[str, Any]) -> str:
        name = fields.get("name")
        return join_path(f"agents.{name}" if _is_name(name) else "agent", path)

    def __hash__(self) -> int:
        return hash((self.name, self.prompt, self.reads))  # `template` is a dict, which cannot be hashed

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

    @field_validator("latent_steps", mode="before")
    @classmethod
    def _parse_latent_steps(cls, value: object) -> StepsSetting | None:
        if isinstance(value, str) and value.strip().isdigit():  # YAML reads 010 and 1:30 as text
            raise RuleError(value, LATENT_STEPS_FORM)
        try:
            return None if value is None else parse_latent_steps(value)
        except ValueError as problem:
            raise RuleError(value, str(problem)) from None

    @field_validator("template", mode="before")
    @classmethod
    def _check_template(cls, template: object) -> dict[str, Any]:
        arguments = plain_mapping(template)
        for key in _ENGINE_ARGUMENTS:
            if key in arguments:
                raise RuleError(arguments[key], "the engine sets this argument itself", key)
        return arguments

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        foreign, expected = LATENT_KEYS, "only a latent agent has it; this one thinks in text"
        if self.thinks == "latent":
            foreign, expected = TEXT_KEYS, "only an agent that thinks in text has it; this one thinks in latent space"
        for key in foreign:
            value = getattr(self, key)
            if key in self.model_fields_set and value is not None:
                raise RuleError(value, expected, key)
        if self.latent_steps == 0 and self.hands_over in LATENT_PARTS:
            raise RuleError(self.hands_over, "with latent_steps: 0 there are no latents to hand over", "hands_over")
        if self.hands_over in LATENT_PARTS and self.keep is not None:
            why = f"with hands_over: {self.hands_over} no position of the prompt is chosen"
            raise RuleError(self.keep, why, "keep")
        return self


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class AgentMemory:
    """The working memory of one agent, as a tree of names: the memories it read, merged in this order, then its own
    segment.

    Holds no tensors. The scheduler sends it with the segments, and `memory.merge` computes each segment's positions
    from it.
    """

    agent: str
    reads: tuple["AgentMemory", ...] = ()

    def agents(self) -> tuple[str, ...]:
        """Return the agents whose segments this memory holds, each once, in the order of the merged sequence."""
        seen: dict[str, None] = {}
        for branch in self.reads:
            seen.update(dict.fromkeys(branch.agents()))
        seen[self.agent] = None
        return tuple(seen)

    def after(self, first: tuple["AgentMemory", ...]) -> "AgentMemory":
        """Return this memory as it is if the agents that read nothing have read `first`."""
        return AgentMemory(self.agent, tuple(one.after(first) for one in self.reads) or first)


class Topology(ValidatedModel):
    """A DAG of agents. The agent that is read by no other answers; several answer if `decides` says by which rule one
    answer is made of theirs.

    The agents may be given in any order and are stored in topological order. Raises TopologyError, its field
    `agents.NAME.KEY`, if a rule is broken.
    """

    name: Text
    decides: DecisionRule | None = None  # before the agents, of which it allows several to answer
    agents: Sequence[Agent]  # stored as a tuple

    _source: str = PrivateAttr("")

    EXPECTED: ClassVar[Mapping[str, str]] = {
        "name": "it must be text",
        "decides": f"it must be one of {', '.join(get_args(DecisionRule))}",
    }

    @classmethod
    def load(cls, name_or_path: str) -> "Topology":
        """Load a built-in topology by name, or a FILE.yaml. Raises TopologyError."""
        from latentmas_ray.topology.yaml import load_topology

        return load_topology(name_or_path)

    @classmethod
    def parse(cls, text: str, source: str = "text") -> "Topology":
        """Parse YAML text; `source` is its name in messages. Raises TopologyError, its field
        `SOURCE:LINE: agents.NAME.KEY`."""
        from latentmas_ray.topology.yaml import parse_topology

        return parse_topology(text, source)

    def to_yaml(self) -> str:
        """Return YAML that `parse` reads back into an equal topology."""
        from latentmas_ray.topology.yaml import dump_topology

        return dump_topology(self)

    @classmethod
    def where(cls, path: Path, fields: Mapping[str, Any]) -> str:
        match path:
            case ("agents", int(index), *rest):
                entry = fields["agents"][index]
                name = entry.get("name") if isinstance(entry, Mapping) else getattr(entry, "name", None)
                return join_path(f"agents.{name}" if _is_name(name) else f"agents[{index}]", tuple(rest))
        return join_path("", path)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.strip() or len(name) > 100 or not name.isprintable():
            raise RuleError(name, "it must be one line of at most 100 characters")
        return name

    @field_validator("agents", mode="before")
    @classmethod
    def _arrange(cls, entries: object, info: ValidationInfo) -> tuple[Agent, ...]:
        if not isinstance(entries, list | tuple):
            raise RuleError(entries, "it must be a list of agents (lines that begin with `- name: …`)")
        if not 1 <= len(entries) <= MAX_AGENTS:
            raise RuleError(f"{len(entries)} agents", f"it must list 1 to {MAX_AGENTS} agents")
        agents = [_as_agent(entry, index) for index, entry in enumerate(entries)]
        indices: dict[str, int] = {}
        for index, agent in enumerate(agents):
            if agent.name in indices:
                raise RuleError(agent.name, SAME_NAME, index, "name")
            indices[agent.name] = index

        def refuse(agent: str, key: str, value: str, expected: str) -> NoReturn:
            raise RuleError(value, expected, indices[agent], *([key] if key else []))

        # Without the key `decides` has been refused, which is said first.
        return arrange(agents, refuse, several_answer=info.data.get("decides", "refused") is not None)

    @property
    def source(self) -> str:
        """The file it was read from, for messages; empty if it was made in Python."""
        return self._source

    def at(self, path: str) -> str:
        """Return `path` with the file in front, for messages."""
        return f"{self._source}: {path}" if self._source else path

    def __eq__(self, other: object) -> bool:
        """Compare name, rule and agents; the source does not count."""
        return isinstance(other, Topology) and self._key == other._key

    @property
    def _key(self) -> tuple[object, ...]:
        return self.name, self.decides, self.agents

    def __hash__(self) -> int:
        return hash(self._key)

    def replace(self, **changes: Any) -> "Topology":
        changed = super().replace(**changes)
        changed._source = self._source
        return changed

    @cached_property
    def by_name(self) -> dict[str, Agent]:
        return {agent.name: agent for agent in self.agents}

    @cached_property
    def answering_agents(self) -> tuple[Agent, ...]:
        """The agents that no other reads, in topological order. Each decodes an answer."""
        read = {name for agent in self.agents for name in agent.reads}
        return tuple(agent for agent in self.agents if agent.name not in read)

    @property
    def answering_agent(self) -> Agent:
        """The answering agent of a topology that has one."""
        (answering,) = self.answering_agents
        return answering

    def answers(self, name: str) -> bool:
        """Whether an agent answers."""
        return any(agent.name == name for agent in self.answering_agents)

    @cached_property
    def width(self) -> int:
        """The largest number of agents that can work on one batch at the same time: those of equal depth."""
        depths: dict[str, int] = {}
        for agent in self.agents:
            depths[agent.name] = max((depths[read] + 1 for read in agent.reads), default=0)
        return max(Counter(depths.values()).values())

    def memory_of(self, name: str) -> AgentMemory:
        """Return what `name` hands over: the tree of its latent ancestors and itself."""
        return AgentMemory(name, self.memory_read_by(name))

    def memory_read_by(self, name: str) -> tuple[AgentMemory, ...]:
        """Return the memories that `name` starts from, in the order of its `reads`; text agents have none."""
        return self._memory_read[name]

    def text_ancestors(self, name: str) -> tuple[Agent, ...]:
        """Return the text agents that `name` reads, directly or through other text agents, in topological order."""
        return self._text_ancestors[name]

    @cached_property
    def _memory_read(self) -> dict[str, tuple[AgentMemory, ...]]:
        """The memories that each agent starts from. Computed once, because every turn of a run asks."""
        found: dict[str, tuple[AgentMemory, ...]] = {}
        for agent in self.agents:
            latent = [read for read in agent.reads if self.by_name[read].thinks == "latent"]
            found[agent.name] = tuple(AgentMemory(read, found[read]) for read in latent)
        return found

    @cached_property
    def _text_ancestors(self) -> dict[str, tuple[Agent, ...]]:
        found: dict[str, set[str]] = {}
        for agent in self.agents:
            texts = [read for read in agent.reads if self.by_name[read].thinks == "text"]
            found[agent.name] = set(texts).union(*(found[read] for read in texts))
        return {name: tuple(agent for agent in self.agents if agent.name in read) for name, read in found.items()}


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
