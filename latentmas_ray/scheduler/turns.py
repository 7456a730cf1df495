"""The turns of a run: its settings, what each turn waits for, and the request of one turn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from latentmas_ray.config import MAX_NEW_TOKENS, GuardName, RunConfig, TransferMode
from latentmas_ray.engine.turn import GivenMemory, Handover, Prompt, Sampling, TurnRequest
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.memory_budget import SegmentBound
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import format_context, seen_by
from latentmas_ray.topology.agent import Agent, AgentMemory, Topology
from latentmas_ray.topology.prompts import RenderedPrompts


@dataclass(frozen=True, kw_only=True)
class DriverSettings:
    """How the turns are made, how much may be in flight, and how often a question is tried."""

    latent_steps: int = 40  # of agents that do not set their own
    sampling: Sampling = field(default_factory=Sampling)
    transfer: TransferMode = "kv"
    memory_limit_bytes: int | None = None  # None: what the runtime offers
    max_batches_in_flight: int | None = None  # None: enough to keep every replica of every agent busy
    replicas: int = 1  # of the agent that has the most
    max_attempts: int = 2  # per question, the first one included
    traced: frozenset[str] = frozenset()  # the questions of which a trace is kept
    prompts: RenderedPrompts = field(default_factory=RenderedPrompts, repr=False, compare=False)
    guard: GuardName = "off"  # what is done about thoughts with an alarm
    max_losses: int = 3  # of a batch: actors that died of its turns, memory that was gone; fewer of later attempts

    @classmethod
    def from_config(
        cls, config: RunConfig, traced: Iterable[str] = (), prompts: RenderedPrompts | None = None
    ) -> "DriverSettings":
        """The driver's part of a run's configuration; `traced` are the ids of the questions to be traced, `prompts`
        what is rendered of the run's prompts."""
        return cls(
            latent_steps=config.latent_steps,
            sampling=Sampling(
                temperature=config.temperature,
                top_p=config.top_p,
                max_new_tokens=config.max_new_tokens or MAX_NEW_TOKENS,
                seed=config.seed,
            ),
            transfer=config.transfer,
            memory_limit_bytes=config.memory_in_flight_bytes,
            replicas=config.max_replicas,
            traced=frozenset(traced),
            prompts=prompts or RenderedPrompts(),
            guard=config.guard,
            # Colocated agents take turns: a second batch in their actor would only push the first out of its cache.
            max_batches_in_flight=config.max_replicas if config.placement == "colocate" else None,
        )

    def batches_in_flight(self, num_agents: int) -> int:
        """How many batches may be in flight: one for each actor, and one more so that the first never waits."""
        return self.max_batches_in_flight or num_agents * self.replicas + 1


# answer: all agents work. think: all but the answering one, whose memory is the result. answer-from-memory: the
# answering agent alone, on memory that is given to it.
Goal = Literal["answer", "think", "answer-from-memory"]


@dataclass(frozen=True)
class TopologyIndex:
    """For every agent that works, in topological order: what its turn waits for and who reads its segment."""

    topology: Topology
    agents: tuple[Agent, ...]  # those that work
    sources: Mapping[str, tuple[str, ...]]  # latent agents whose segments it reads, near and far
    texts: Mapping[str, tuple[str, ...]]  # text agents whose texts stand in its prompt
    readers: Mapping[str, frozenset[str]]
    read_by_answering: tuple[str, ...]  # latent agents that work and whose segments the answering agent reads

    @classmethod
    def of(cls, topology: Topology, goal: Goal = "answer") -> "TopologyIndex":
        """The route through `topology`."""
        answering = topology.answering_agent
        if goal == "answer-from-memory":
            none: dict[str, tuple[str, ...]] = {answering.name: ()}
            return cls(topology, (answering,), none, none, {answering.name: frozenset()}, ())
        agents = tuple(agent for agent in topology.agents if goal == "answer" or agent.name != answering.name)
        names = [agent.name for agent in agents]
        sources = {name: agents_of(topology.memory_read_by(name)) for name in names}
        return cls(
            topology=topology,
            agents=agents,
            sources=sources,
            texts={name: tuple(agent.name for agent in topology.text_ancestors(name)) for name in names},
            readers={name: frozenset(reader for reader in names if name in sources[reader]) for name in names},
            read_by_answering=agents_of(topology.memory_read_by(answering.name)),
        )


def agents_of(memories: Iterable[AgentMemory]) -> tuple[str, ...]:
    """All agents whose segments these memories hold, each once."""
    return tuple(dict.fromkeys(name for memory in memories for name in memory.agents()))


# What a chat template puts around the messages: role names, turn marks, a default system message.
FRAME_TOKENS = 64


def build_turn(
    topology: Topology,
    agent: Agent,
    batch: Batch,
    settings: DriverSettings,
    texts: Mapping[str, Sequence[str]],
    handovers: Mapping[str, Handover] | None = None,
    fallbacks: Mapping[str, Mapping[str, str]] | None = None,
    *,
    given: GivenMemory | None = None,
) -> TurnRequest:
    """The turn of `agent` over `batch`; `handovers` tells how the memory of latent agents travels (default: as KV).

    `texts` holds what each text agent wrote, one text a question; a text agent that is missing there is left out of
    the context. `fallbacks` holds, by agent and question, what latent agents wrote instead of handing over memory; it
    stands in the context like the text of a text agent. The answering agent reads `given`, where there is one, in
    place of what other agents wrote. Raises TopologyError for a prompt that cannot be rendered.
    """
    handovers = handovers or {}
    reads = topology.memory_read_by(agent.name)
    recomputed = frozenset(name for memory in reads for name in memory.agents() if handovers.get(name) == "recompute")
    if given is not None:
        reads, recomputed = given.reads, given.recomputed
    ancestors = [ancestor.name for ancestor in topology.text_ancestors(agent.name) if ancestor.name in texts]
    wrote = [
        {name: texts[name][index] for name in ancestors}
        | {name: by_id[question.id] for name, by_id in (fallbacks or {}).items() if question.id in by_id}
        for index, question in enumerate(batch.questions)
    ]
    return TurnRequest(
        agent=agent.name,
        batch=batch.number,
        question_ids=tuple(question.id for question in batch.questions),
        prompts=tuple(
            _prompt(settings.prompts, agent, seen_by(agent, topology, question), _context(topology, written, given))
            for question, written in zip(batch.questions, wrote, strict=True)
        ),
        thinks=agent.thinks,
        sampling=settings.sampling,
        latent_steps=_latent_steps(agent, settings),
        hands_over=agent.hands_over,
        close_turn=agent.close_turn,
        reads=reads,
        handover=handovers.get(agent.name, "kv"),
        recomputed=recomputed,
        given=given,
        traced=settings.traced & {question.id for question in batch.open_questions},
        guard=settings.guard if agent.thinks == "latent" else "off",
        is_last=agent.name == topology.answering_agent.name,
    )


def segment_bounds(work: TurnRequest, coming_tokens: int = 0) -> tuple[SegmentBound, ...]:
    """How large each question's part of a latent agent's segment can become, told before anything is computed.

    `coming_tokens` allows for texts that `work` should have in its prompts but was rendered without.
    """
    latent_steps = 0 if work.hands_over == "prompt" else work.latent_steps
    if work.handover == "recompute":  # next to nothing
        return (SegmentBound(prompt_bytes=0, latent_steps=0, spare_tokens=0),) * len(work.prompts)
    if work.hands_over == "latents":
        return (SegmentBound(prompt_bytes=0, latent_steps=latent_steps, spare_tokens=0),) * len(work.prompts)
    return tuple(
        SegmentBound(
            prompt_bytes=_prompt_bytes(prompt), latent_steps=latent_steps, spare_tokens=FRAME_TOKENS + coming_tokens
        )
        for prompt in work.prompts
    )


def _latent_steps(agent: Agent, settings: DriverSettings) -> int:
    if agent.thinks == "text":
        return 0
    return settings.latent_steps if agent.latent_steps is None else agent.latent_steps


def _context(topology: Topology, wrote: Mapping[str, str], given: GivenMemory | None) -> str:
    """What was written on one question, in the order of the agents' turns."""
    if given is not None:
        return format_context(list(given.texts.items()))
    return format_context([(agent.name, wrote[agent.name]) for agent in topology.agents if agent.name in wrote])


def _prompt(prompts: RenderedPrompts, agent: Agent, question: Question, context: str) -> Prompt:
    messages, suffix = prompts.get(agent, question, context)
    return Prompt(messages=messages, template=agent.template, suffix=suffix)


def _prompt_bytes(prompt: Prompt) -> int:
    texts = [*(message["content"] for message in prompt.messages), prompt.suffix]
    # A question file may hold a lone surrogate, which strict UTF-8 refuses.
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
