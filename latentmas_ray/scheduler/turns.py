"""The turns of a run: its settings, what each turn waits for, and the request of one turn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from latentmas_ray.config import (
    DEFAULT_LATENT_STEPS,
    MAX_NEW_TOKENS,
    GuardName,
    KeepBy,
    KeepLayers,
    LatentSteps,
    RunConfig,
    StepsSetting,
    TransferMode,
    latent_steps_of,
)
from latentmas_ray.engine.turn import GivenMemory, KeepRule, Prompt, Sampling, SentAs, TurnRequest
from latentmas_ray.runs.decisions.decide import DecisionSettings
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.memory_budget import SegmentBound
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import format_context, seen_by
from latentmas_ray.topology.agent import LATENT_PARTS, Agent, AgentMemory, Topology
from latentmas_ray.topology.prompts import RenderedPrompts
from latentmas_ray.units import share_of


@dataclass(frozen=True, kw_only=True)
class DriverSettings:
    """The scheduler's part of a run's configuration: turns, limits in flight, retries."""

    latent_steps: StepsSetting = DEFAULT_LATENT_STEPS  # for agents that do not set their own
    sampling: Sampling = field(default_factory=Sampling)
    transfer: TransferMode = "kv"
    memory_limit_bytes: int | None = None  # None: the runtime's default
    max_batches_in_flight: int | None = None  # None: enough to keep every replica of every agent busy
    is_colocated: bool = False  # all agents share an actor
    replicas: int = 1  # of the agent with the most replicas
    max_attempts: int = 2  # per question, the first one included
    traced: frozenset[str] = frozenset()  # ids of questions to be traced
    stop: tuple[str, ...] = ()  # texts that end an answer
    streamed: frozenset[str] = frozenset()  # ids of questions whose answers are reported as they are written
    prompts: RenderedPrompts = field(default_factory=RenderedPrompts, repr=False, compare=False)
    keep: float = 1.0  # share of the prompts' positions, for agents that do not set their own
    keep_by: KeepBy = "prompt"
    keep_layers: KeepLayers = "shared"
    guard: GuardName = "off"  # what happens to thoughts with an alarm
    unsafe_programs: bool = False  # see `tasks.grade`
    decode_batch: int | None = None  # questions that a replica of a text agent writes at the same time; None: any
    samples: int = 1  # answers of each answering agent to a question
    decision: DecisionSettings = field(default_factory=DecisionSettings)  # how several become one
    max_losses: int = 3  # of a batch, see RetryState.can_resubmit_lost_turns

    @classmethod
    def from_config(
        cls,
        config: RunConfig,
        traced: Iterable[str] = (),
        prompts: RenderedPrompts | None = None,
        decision: DecisionSettings | None = None,
    ) -> "DriverSettings":
        """Build from a run's configuration; `traced` are the ids of the questions to be traced, `prompts` the rendered
        prompts, `decision` is for questions with several answers."""
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
            replicas=config.most_replicas,
            traced=frozenset(traced),
            unsafe_programs=config.unsafe_programs,
            prompts=prompts or RenderedPrompts(),
            keep=config.keep,
            keep_by=config.keep_by,
            keep_layers=config.keep_layers,
            guard=config.guard,
            decode_batch=config.decode_batch,
            samples=config.samples,
            decision=decision or DecisionSettings(),
            is_colocated=config.placement == "colocate",
        )

    def votes(self, index: "TopologyIndex") -> bool:
        """Whether a question has several answers."""
        return len(index.answering) * self.samples > 1

    def batches_in_flight(self, num_agents: int) -> int:
        """Return how many batches may be in flight: one for each actor, and one more so that the first never waits.

        To colocated agents, which share one actor, a second batch would only evict the first one from its cache."""
        return self.max_batches_in_flight or (self.replicas if self.is_colocated else num_agents * self.replicas + 1)

    def questions_in_flight(
        self, agents: Sequence[Agent], writes_at_once: Mapping[str, int], batch_size: int
    ) -> int | None:
        """Return how many unanswered questions may be in flight: as many as all agents work on at the same time, and
        one more batch, so that an agent whose question ends finds the next one. None if no agent writes several turns
        at the same time (`RuntimeInfo.writes_at_once`), or batches are limited by themselves: then batches count."""
        if self.max_batches_in_flight is not None or not any(agent.name in writes_at_once for agent in agents):
            return None
        if self.decode_batch is not None:
            most = self.decode_batch * self.replicas
            writes_at_once = {name: min(most, count) for name, count in writes_at_once.items()}
        per_agent = [writes_at_once.get(agent.name, batch_size * self.replicas) for agent in agents]
        counts = [max(batch_size, count) for count in per_agent]
        return (max(counts) if self.is_colocated else sum(counts)) + batch_size


# answer: all agents run. think: all agents but the answering one run, and the memory that it would read is the result.
# answer-from-memory: only the answering agent runs, on memory of an earlier run. Both are for topologies in which one
# agent answers.
Goal = Literal["answer", "think", "answer-from-memory"]


@dataclass(frozen=True)
class TopologyIndex:
    """Whose outputs each turn needs and which turns read its segment, by agent, for the agents that run with a goal."""

    topology: Topology
    agents: tuple[Agent, ...]  # that run, in topological order
    sources: Mapping[str, tuple[str, ...]]  # latent agents whose segments it reads, directly or not
    texts: Mapping[str, tuple[str, ...]]  # text agents whose texts are in its prompt
    readers: Mapping[str, frozenset[str]]
    read_by_answering: tuple[str, ...]  # latent agents that run and whose segments answering agents read
    answering: tuple[str, ...]  # the agents that answer

    @classmethod
    def of(cls, topology: Topology, goal: Goal = "answer") -> "TopologyIndex":
        """The topology_index through `topology`."""
        answering = tuple(agent.name for agent in topology.answering_agents)
        if goal == "answer-from-memory":
            none: dict[str, tuple[str, ...]] = dict.fromkeys(answering, ())
            readers = dict.fromkeys(answering, frozenset[str]())
            return cls(topology, topology.answering_agents, none, none, readers, (), answering)
        agents = tuple(agent for agent in topology.agents if goal == "answer" or agent.name not in answering)
        names = [agent.name for agent in agents]
        sources = {name: agents_of(topology.memory_read_by(name)) for name in names}
        return cls(
            topology=topology,
            agents=agents,
            sources=sources,
            texts={name: tuple(agent.name for agent in topology.text_ancestors(name)) for name in names},
            readers={name: frozenset(reader for reader in names if name in sources[reader]) for name in names},
            read_by_answering=agents_of(memory for name in answering for memory in topology.memory_read_by(name)),
            answering=answering,
        )


def agents_of(memories: Iterable[AgentMemory]) -> tuple[str, ...]:
    """Return all agents whose segments are part of these memories, each once."""
    return tuple(dict.fromkeys(name for memory in memories for name in memory.agents()))


# Upper bound on the tokens that a chat template adds: role names, turn marks, a default system message.
FRAME_TOKENS = 64


def build_turn(
    topology: Topology,
    agent: Agent,
    batch: Batch,
    settings: DriverSettings,
    texts: Mapping[str, Sequence[str]],
    transfer_modes: Mapping[str, SentAs] | None = None,
    fallbacks: Mapping[str, Mapping[str, str]] | None = None,
    *,
    given: GivenMemory | None = None,
    read_by: tuple[str, ...] = (),
    keeps_memory: bool = False,
    translated: Mapping[str, str] | None = None,
) -> TurnRequest:
    """Build the request of `agent`'s turn over `batch`; `transfer_modes` is by latent agent (default: kv).

    `texts` has, by text agent, one text for each question; text agents that are missing are left out of the context.
    `fallbacks` has, by latent agent and question id, text written in place of memory; it is part of the context too.
    With `given` the agent reads that memory in place of the outputs of other agents, or before them (`is_first`).
    `read_by` are the agents that read its segment; with `keeps_memory` the result contains that. `translated` are the
    agents with another model whose memory it reads, each with that model. Raises TopologyError for a prompt that cannot
    be rendered."""
    transfer_modes = transfer_modes or {}
    reads, recomputed, translated = _reads(topology, agent, transfer_modes, translated or {}, given)
    contexts = _contexts(topology, agent, batch, texts, fallbacks or {}, given)
    steps = _latent_steps(agent, settings)
    return TurnRequest(
        agent=agent.name,
        batch=batch.number,
        question_ids=batch.question_ids,
        prompts=tuple(
            _prompt(settings.prompts, agent, seen_by(agent, topology, question), context)
            for question, context in zip(batch.questions, contexts, strict=True)
        ),
        thinks=agent.thinks,
        sampling=settings.sampling,
        latent_steps=steps.most,
        stop_at=steps.threshold,
        fills_steps=steps.fills,
        hands_over=agent.hands_over,
        keep=_keep_rule(topology, agent, batch, settings),
        close_turn=agent.close_turn,
        reads=reads,
        transfer_mode=transfer_modes.get(agent.name, "kv"),
        recomputed=recomputed,
        translated=translated,
        given=given,
        read_by=read_by,
        keeps_memory=keeps_memory,
        traced=settings.traced and settings.traced & {question.id for question in batch.open_questions},
        guard=settings.guard if agent.thinks == "latent" else "off",
        is_last=topology.answers(agent.name),
        others_read=len(topology.answering_agents) > 1,
        **_of_answers(settings, batch) if topology.answers(agent.name) else {},
        decode_batch=settings.decode_batch if agent.thinks == "text" else None,
    )


def _of_answers(settings: DriverSettings, batch: Batch) -> dict[str, Any]:
    """The fields that only the turns of answering agents have."""
    streamed = settings.streamed and settings.streamed & {question.id for question in batch.open_questions}
    return {"samples": settings.samples, "stop": settings.stop, "streamed": streamed}


def _reads(
    topology: Topology,
    agent: Agent,
    transfer_modes: Mapping[str, SentAs],
    translated: Mapping[str, str],
    given: GivenMemory | None,
) -> tuple[tuple[AgentMemory, ...], frozenset[str], Mapping[str, str]]:
    """Return what an agent reads, which of it arrives as recompute inputs, and the models of what is translated."""
    if given is not None and not given.is_first:
        return given.reads, given.recomputed, {}
    reads = topology.memory_read_by(agent.name)
    is_recomputed = "recompute" in transfer_modes.values()  # most runs have none, and this is asked for every turn
    names = agents_of(reads) if is_recomputed else ()
    recomputed = frozenset(name for name in names if transfer_modes.get(name) == "recompute").union(translated)
    if given is not None:
        reads = tuple(one.after(given.reads) for one in reads) or given.reads
        recomputed |= given.recomputed
    return reads, recomputed, translated


def _contexts(
    topology: Topology,
    agent: Agent,
    batch: Batch,
    texts: Mapping[str, Sequence[str]],
    fallbacks: Mapping[str, Mapping[str, str]],
    given: GivenMemory | None,
) -> list[str]:
    """Return, for each question, the texts of other agents for the prompt of `agent`, in topological order."""
    if given is not None and not given.is_first:
        return [format_context(list(given.texts.items()))] * len(batch.questions)
    ancestors = [ancestor.name for ancestor in topology.text_ancestors(agent.name) if ancestor.name in texts]
    if not ancestors and not any(fallbacks.values()):
        return [""] * len(batch.questions)
    wrote = [
        {name: texts[name][index] for name in ancestors}
        | {name: by_id[question.id] for name, by_id in fallbacks.items() if question.id in by_id}
        for index, question in enumerate(batch.questions)
    ]
    return [
        format_context([(one.name, written[one.name]) for one in topology.agents if one.name in written])
        for written in wrote
    ]


def segment_bounds(request: TurnRequest, coming_tokens: int = 0) -> tuple[SegmentBound, ...]:
    """Return upper bounds on each question's part of a latent agent's segment, before the turn runs.

    `coming_tokens` is for texts that the prompts will contain but were rendered without.
    """
    latent_steps = 0 if request.hands_over == "prompt" else request.latent_steps
    if request.transfer_mode == "recompute":  # a few bytes per token
        return (SegmentBound(prompt_bytes=0, latent_steps=0, spare_tokens=0),) * len(request.prompts)
    if request.hands_over in LATENT_PARTS:
        sinks = int(request.hands_over == "latents+sink")
        return (SegmentBound(prompt_bytes=0, latent_steps=latent_steps, spare_tokens=sinks),) * len(request.prompts)
    counts = [_prompt_bytes(prompt) for prompt in request.prompts]
    if request.keep is not None:
        counts = [share_of(request.keep.share, count) for count in counts]
    spare_tokens = FRAME_TOKENS + coming_tokens
    return tuple(SegmentBound(count, latent_steps, spare_tokens) for count in counts)


def _keep_rule(topology: Topology, agent: Agent, batch: Batch, settings: DriverSettings) -> KeepRule | None:
    """Return which positions of its prompt an agent hands over; None if all.

    If readers choose, the prompts are those of all agents that read its segment, directly or not; texts that do not
    exist yet are missing in them."""
    share = settings.keep if agent.keep is None else agent.keep
    if settings.keep_by == "window":
        share = 1.0
    elif share == 1.0:
        return None
    if agent.thinks == "text" or agent.hands_over in LATENT_PARTS:
        return None
    readers = [
        reader
        for reader in topology.agents
        if settings.keep_by == "reader" and agent.name in agents_of(topology.memory_read_by(reader.name))
    ]
    return KeepRule(
        share=share,
        by=settings.keep_by,
        layers=settings.keep_layers,
        readers=tuple(
            tuple(
                _prompt(settings.prompts, reader, seen_by(reader, topology, question), "")
                for question in batch.questions
            )
            for reader in readers
        ),
    )


def _latent_steps(agent: Agent, settings: DriverSettings) -> LatentSteps:
    if agent.thinks == "text":
        return LatentSteps(0)
    return latent_steps_of(settings.latent_steps if agent.latent_steps is None else agent.latent_steps)


def _prompt(prompts: RenderedPrompts, agent: Agent, question: Question, context: str) -> Prompt:
    messages, suffix = prompts.get(agent, question, context)
    return Prompt(messages=messages, template=agent.template, suffix=suffix)


def _prompt_bytes(prompt: Prompt) -> int:
    texts = [message["content"] for message in prompt.messages]
    return sum(map(_num_bytes, texts)) + _num_bytes(prompt.suffix)


def _num_bytes(text: str) -> int:
    # A question file may hold a lone surrogate, which strict UTF-8 refuses.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
