"""The working memory of a conversation: one segment for each exchange, that is, for a user's message with its answer.

A segment is the prefill of the exchange's text alone, after the segments of the exchanges before. So it depends on
nothing but the texts and the model: whichever team has answered, memory that is kept equals memory that is computed
again from the messages. All agents of the next question read it first, then what they read otherwise.
"""

import asyncio
import secrets
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from latentmas_ray.engine.turn import GivenMemory
from latentmas_ray.errors import ContextLengthError, QuestionsFailedError
from latentmas_ray.runs.results import Failure, ReturnedMemory
from latentmas_ray.scheduler.run import Result
from latentmas_ray.system.call import Call, given_memory, plan_call
from latentmas_ray.system.serving.fleet import Fleet, TeamVariant
from latentmas_ray.system.team.run_models import team_of
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Agent, AgentMemory, Topology

if TYPE_CHECKING:
    from latentmas_ray.memory import Memory

# Stands before an exchange. Without it some chat templates put a system message of their own there.
_SYSTEM: Final = "This is an earlier exchange of the conversation."
_SEGMENT: Final = "exchange {}"  # with a space, which no agent's name has


@dataclass(frozen=True)
class ChatExchange:
    """A user's message and its answer."""

    user: str
    assistant: str

    @classmethod
    def of(cls, user: str, assistant: str) -> "ChatExchange":
        """Space around the texts does not count: clients send answers back without it."""
        return cls(user.strip(), assistant.strip())


def why_not_kept(fleet: Fleet, model: TeamVariant) -> str:
    """Return why no conversation with a model can be kept; empty if it can."""
    first = next(iter(fleet.models.values()))
    if _reader(first.topology) is None:
        return f"no agent of {first.name} thinks latently, so none can compute it"
    names = {one.name for variant in (first, model) for one in team_of(variant.config, variant.topology).models}
    return f"its agents have several models ({', '.join(sorted(names))})" if len(names) > 1 else ""


async def add_exchange(fleet: Fleet, memory: "Memory | None", exchange: ChatExchange) -> "Memory":
    """Return the memory of a conversation with one more exchange; `memory` is that of those before, None if there are
    none. Raises ContextLengthError for texts that are too long, and the errors of a run."""
    call = await asyncio.to_thread(_plan, fleet, memory, exchange)
    results: list[Result] = []
    async with aclosing(fleet.arun(call)) as running:
        async for result in running:
            results.append(result)
    (result,) = results
    if not isinstance(result, ReturnedMemory):
        assert isinstance(result, Failure)
        raise ContextLengthError(result.error) if result.too_long else QuestionsFailedError((result,), 1)
    return await asyncio.to_thread(_joined, memory, result)


def first_exchanges(memory: "Memory | None", count: int) -> "Memory | None":
    """Return the memory of the first `count` exchanges; of all if it has fewer, None if that is none."""
    if memory is None or count <= 0:
        return None
    if count >= len(memory.segments):
        return memory
    names = memory.agents[:count]
    return replace(memory, reads=(memory.tree[names[-1]],), segments={name: memory.segments[name] for name in names})


def given_first(memory: "Memory") -> GivenMemory:
    """Return memory in the form in which all agents read it first."""
    return replace(given_memory(memory), is_first=True)


def _reader(topology: Topology) -> str | None:
    """The agent whose actor computes segments."""
    return next((agent.name for agent in topology.agents if agent.thinks == "latent"), None)


def _plan(fleet: Fleet, memory: "Memory | None", exchange: ChatExchange) -> Call:
    first = next(iter(fleet.models.values()))
    name = _reader(first.topology)
    assert name is not None, "why_not_kept comes first"
    # The texts are values of variables: no text of a user is ever a template.
    reader = Agent(
        name=name,
        thinks="latent",
        system=_SYSTEM,
        prompt="{{ question }}",
        suffix="{{ said }}",
        close_turn=True,
        latent_steps=0,
        keep=1.0,
    )
    end = Agent(name=first.topology.answering_agents[0].name, reads=(name,), thinks="text", prompt="{{ question }}")
    record = {"question": exchange.user, "said": exchange.assistant}
    question = Question(id=secrets.token_hex(8), question=exchange.user, kind="text", gold=None, record=record)
    changes = {"method": "latent", "memory": "matched", "samples": 1, "trace": 0, "save_memory": None, "guard": "off"}
    changes |= {"decides": None, "decide_accuracies": None}
    return plan_call(
        first.config.model_copy(update=changes),
        Topology(name="conversation", agents=(reader, end)),
        [question],
        observer=None,
        given=None if memory is None else given_first(memory),
        thinks=True,
        warns=False,
    )


def _joined(memory: "Memory | None", returned: ReturnedMemory) -> "Memory":
    new = returned.memory()
    before = {} if memory is None else dict(memory.segments)
    name = _SEGMENT.format(len(before) + 1)
    (segment,) = new.segments.values()
    reads = () if memory is None else memory.reads
    return replace(new, question="", reads=(AgentMemory(name, reads),), segments={**before, name: segment}, texts={})
