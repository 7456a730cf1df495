"""From a topology, a batch and the texts written so far to the work of one turn."""

from collections.abc import Mapping, Sequence

from latentmas_ray.engine.turn import GivenMemory, Handover, Prompt, TurnRequest
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.memory_budget import SegmentBound
from latentmas_ray.scheduler.settings import DriverSettings
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import RenderedPrompts, format_context, seen_by
from latentmas_ray.topology.agent import Agent, Topology

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
