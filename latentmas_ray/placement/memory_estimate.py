"""Estimates of what each agent's turn needs: tokens in its cache, bytes it reads and hands over, memory on its GPU."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from latentmas_ray.config import DEFAULT_LATENT_STEPS, most_steps
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.model_dims import ModelDims
from latentmas_ray.topology.agent import LATENT_PARTS, Agent, Topology
from latentmas_ray.units import share_of

SLOT_STEP = 256  # a cache grows in steps of this many tokens per question
FORWARD_TOKENS = 1024  # at most, in one forward of all questions together
FIXED_BYTES = 2_000_000_000  # CUDA context, kernel workspaces, W_a, fragmentation of the allocator
_LOGITS_BYTES = 8  # float32 logits and a sorted copy, per question and vocabulary entry


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The size of one batch, in tokens per question and agent. Raises ConfigError for impossible values."""

    batch_size: int = 8
    prompt_tokens: int = 1000
    latent_steps: int = DEFAULT_LATENT_STEPS
    max_new_tokens: int = 256
    keep: float = 1.0  # share of the prompts' positions that is handed over, of agents that do not set their own
    window: int | None = None  # of the prompts only the last `window` − 1 positions are handed over
    steps_may_stop: bool = False  # a question may think fewer latent steps; all are counted
    thoughts_read_vocabulary: bool = False  # each latent step has a projection to the vocabulary, too
    samples: int = 1  # texts of each answering agent for a question

    def __post_init__(self) -> None:
        for name in ("batch_size", "prompt_tokens", "latent_steps", "max_new_tokens", "samples"):
            if (value := getattr(self, name)) < (least := int(name != "latent_steps")):
                raise ConfigError(name, value, f"it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """The tokens of one agent's turn, per question."""

    agent: str
    own_tokens: int  # prompt, and thoughts or answer
    handed_over_tokens: int  # its segment; 0 if it hands over text
    reads: tuple[tuple[str, int], ...]  # (agent, tokens) of every segment it fetches, those of earlier agents included
    num_rows: int  # questions that it computes at the same time
    samples: int = 1  # texts that it writes for each, in a row of the cache each

    @property
    def cache_rows(self) -> int:
        """Rows of its cache."""
        return self.num_rows * self.samples

    @property
    def read_tokens(self) -> int:
        return sum(tokens for _, tokens in self.reads)

    @property
    def cache_tokens(self) -> int:
        """Tokens of one row of its cache, rounded up to SLOT_STEP."""
        return -(-(self.own_tokens + self.read_tokens) // SLOT_STEP) * SLOT_STEP


@dataclass(frozen=True, kw_only=True)
class ActorMemory:
    """The memory that one rank uses on its GPU, in bytes, by purpose."""

    weights_bytes: int
    kv_bytes: int  # the cache, reserved for the longest turn
    segments_bytes: int  # copies in transit: those it reads, and its own until the readers have fetched it
    allowance_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.segments_bytes + self.allowance_bytes


def memory_estimates(
    topology: Topology, workload: Workload, written_at_once: Mapping[str, int]
) -> tuple[MemoryEstimate, ...]:
    """Return the estimate of every agent, in topological order. Texts that an agent reads count at full length.

    `written_at_once`: for agents that write question by question, how many questions at the same time.
    """
    segments = {agent.name: _segment_tokens(agent, workload) for agent in topology.agents}
    return tuple(
        MemoryEstimate(
            agent=agent.name,
            own_tokens=workload.prompt_tokens
            + len(topology.text_ancestors(agent.name)) * workload.max_new_tokens
            + (_steps(agent, workload) if agent.thinks == "latent" else workload.max_new_tokens),
            handed_over_tokens=segments[agent.name],
            reads=tuple(
                (source, segments[source])
                for source in dict.fromkeys(
                    name for memory in topology.memory_read_by(agent.name) for name in memory.agents()
                )
            ),
            num_rows=written_at_once.get(agent.name, workload.batch_size),
            samples=workload.samples if topology.answers(agent.name) else 1,
        )
        for agent in topology.agents
    )


def shard_memory(model: ModelDims, agents: Iterable[MemoryEstimate], workload: Workload, tp: int) -> ActorMemory:
    """Return the memory of one tp rank of an actor that executes the turns of `agents`, one after another.

    Every actor has its own copy of the weights, also beside others on one GPU. A rank holds 1/tp of the KV heads. An
    actor with several agents holds all their segments and transfers none.
    """
    agents = list(agents)
    num_rows = agents[0].num_rows if len(agents) == 1 else workload.batch_size
    samples = max(agent.samples for agent in agents)
    handed_over = [agent.handed_over_tokens for agent in agents if agent.handed_over_tokens]
    segments = [*handed_over, *(tokens for _, tokens in agents[0].reads if len(agents) == 1)]
    return ActorMemory(
        weights_bytes=model.weights_bytes(tp),
        kv_bytes=num_rows * samples * model.memory_bytes(max(agent.cache_tokens for agent in agents)) // tp,
        segments_bytes=num_rows * sum(map(model.memory_bytes, segments)) // tp,
        allowance_bytes=allowance_bytes(model, workload, num_rows * samples),
    )


def allowance_bytes(model: ModelDims, workload: Workload, num_rows: int) -> int:
    """Return the bytes reserved besides weights and KV: a fixed part, the activations of one forward, and logits."""
    tokens = min(FORWARD_TOKENS, max(workload.prompt_tokens * num_rows, num_rows))
    activations = tokens * (8 * model.hidden_size + 3 * model.mlp_size) * model.itemsize
    return FIXED_BYTES + activations + num_rows * model.vocab_size * _LOGITS_BYTES


def _steps(agent: Agent, workload: Workload) -> int:
    return workload.latent_steps if agent.latent_steps is None else most_steps(agent.latent_steps)


def _segment_tokens(agent: Agent, workload: Workload) -> int:
    if agent.thinks == "text":
        return 0
    share = workload.keep if agent.keep is None else agent.keep
    sinks = int(agent.hands_over == "latents+sink")
    prompt = sinks if agent.hands_over in LATENT_PARTS else share_of(share, workload.prompt_tokens)
    if workload.window is not None:
        prompt = min(prompt, max(1, workload.window - 1))
    return prompt + (0 if agent.hands_over == "prompt" else _steps(agent, workload))
