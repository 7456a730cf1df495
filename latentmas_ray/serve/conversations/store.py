"""Keeps the working memory of conversations between their turns.

The client sends all messages of a conversation at every turn, as clients of the API do. So what is kept is never needed
for a right answer: memory that is lost is computed again from the messages. The messages before the question must be
those that the conversation has had, word for word. If the question, too, is one that it has had, it is answered again,
and what came after is dropped.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from latentmas_ray.errors import LatentMASError
from latentmas_ray.serve.api.errors import ApiError, bad_field
from latentmas_ray.serve.conversations.asked import PARAM, ConversationAsked
from latentmas_ray.serve.conversations.limits import ConversationLimits
from latentmas_ray.serve.conversations.metrics import ConversationMetrics
from latentmas_ray.system.serving import ChatExchange, Fleet, TeamVariant, add_exchange, first_exchanges, why_not_kept

if TYPE_CHECKING:
    from latentmas_ray.memory import Memory

_LOG = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class KeptConversation:
    """One conversation. `memory` is that of the first of its exchanges, of all unless some was lost."""

    id: str
    key: str
    model: str
    system: str
    exchanges: tuple[ChatExchange, ...] = ()
    memory: "Memory | None" = None
    used_at: float = 0.0
    is_busy: bool = False  # a question is being answered
    adding: "asyncio.Task[None] | None" = field(default=None, repr=False)  # adds the last exchange to the memory

    @property
    def num_bytes(self) -> int:
        """Bytes of its working memory and of its texts."""
        texts = sum(len(one.user) + len(one.assistant) for one in self.exchanges)
        return texts + len(self.system) + (0 if self.memory is None else self.memory.num_bytes)

    @property
    def num_tokens(self) -> int:
        """Tokens of its working memory."""
        return 0 if self.memory is None else self.memory.num_tokens


class ConversationStore:
    """All conversations of an endpoint. Everything here runs in one event loop."""

    def __init__(
        self,
        find: Callable[[str], tuple[Fleet, TeamVariant]],
        limits: ConversationLimits,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`find` returns the actors that serve a model now; it raises ApiError if none does. Metrics go to
        `registry`."""
        self._find, self._limits, self._clock = find, limits, clock
        self._kept: dict[str, KeptConversation] = {}  # the one that was used longest ago first
        self._timer: asyncio.TimerHandle | None = None
        self.metrics = ConversationMetrics(
            registry, number=lambda: float(len(self._kept)), num_bytes=lambda: float(self.num_bytes)
        )

    @property
    def num_bytes(self) -> int:
        """Bytes that are kept."""
        return sum(one.num_bytes for one in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self, asked: ConversationAsked) -> KeptConversation:
        """Return the conversation of a question, a new one for a new id; `end` has to follow. Raises ApiError: 404 for
        that of another key; 409 while another question of it is answered, for another model, and for messages that
        contradict it; 400 for a model whose memory cannot be kept."""
        self.drop_old()
        found = self._kept.get(asked.id)
        if found is None:
            if reason := why_not_kept(*self._find(asked.model)):
                raise bad_field(PARAM, asked.id, f"{asked.model} keeps none: {reason}; leave out the id")
            found = KeptConversation(id=asked.id, key=asked.key, model=asked.model, system=asked.system)
        elif found.key != asked.key:
            raise _unknown(asked.id)
        _check(found, asked)
        found.is_busy = True
        self._use(found)
        return found

    def end(self, conversation: KeptConversation) -> None:
        """Note that a question was answered, or not."""
        conversation.is_busy = False
        if self._kept.get(conversation.id) is conversation:
            self._use(conversation)
            if not conversation.exchanges:  # it never had an answer
                del self._kept[conversation.id]
            self._drop_too_much()

    async def remember(
        self, conversation: KeptConversation, exchanges: tuple[ChatExchange, ...]
    ) -> "tuple[Memory | None, int]":
        """Return the memory of these exchanges, with which the conversation begins, and how many tokens of it were
        kept; the rest is computed now. Raises the errors of a run."""
        if conversation.adding is not None:
            await asyncio.wait({conversation.adding})  # whose errors are logged; this task's end must not end it
        kept = conversation.memory = first_exchanges(conversation.memory, len(exchanges))
        conversation.exchanges = exchanges
        num_kept = 0 if kept is None else len(kept.segments)
        if exchanges:
            (self.metrics.hits if num_kept == len(exchanges) else self.metrics.losses).inc()
        num_tokens = conversation.num_tokens
        self.metrics.tokens.inc(num_tokens)
        try:
            await self._complete(conversation)
        except BaseException:
            conversation.exchanges = exchanges[: _count(conversation.memory)]
            raise
        return conversation.memory, num_tokens

    def add(self, conversation: KeptConversation, exchange: ChatExchange) -> None:
        """Add an answered question; its memory is computed after that, without delaying the answer."""
        conversation.exchanges += (exchange,)
        if len(conversation.exchanges) < self._limits.max_exchanges:  # else no turn can follow
            conversation.adding = asyncio.create_task(self._add(conversation))

    def get(self, name: str, key: str) -> KeptConversation:
        """Return a conversation of this key. Raises ApiError (404)."""
        self.drop_old()
        found = self._kept.get(name)
        if found is None or found.key != key:
            raise _unknown(name)
        return found

    def delete(self, name: str, key: str) -> None:
        """Drop a conversation of this key; a question of it that is being answered is answered. Raises ApiError
        (404)."""
        self._drop(self.get(name, key), "deleted")

    def drop_old(self) -> None:
        """Drop the conversations that were not used for their time."""
        oldest = self._clock() - self._limits.ttl_seconds
        for one in [one for one in self._kept.values() if one.used_at <= oldest and not one.is_busy]:
            self._drop(one, "age")

    async def aclose(self) -> None:
        """Drop all."""
        if self._timer is not None:
            self._timer.cancel()
        adding = [one.adding for one in self._kept.values() if one.adding is not None]
        self._kept.clear()
        for task in adding:
            task.cancel()
        await asyncio.gather(*adding, return_exceptions=True)

    async def _add(self, conversation: KeptConversation) -> None:
        try:
            await self._complete(conversation)
        except LatentMASError as error:
            # Without what the error says: that may hold a part of a text.
            _LOG.warning("the memory of conversation %s is not complete: %s", conversation.id, type(error).__name__)

    async def _complete(self, conversation: KeptConversation) -> None:
        """Compute what the memory lacks, exchange by exchange, as it would have been computed turn by turn."""
        fleet, _ = self._find(conversation.model)
        for exchange in conversation.exchanges[_count(conversation.memory) :]:
            conversation.memory = await add_exchange(fleet, conversation.memory, exchange)
        self._drop_too_much()

    def _use(self, conversation: KeptConversation) -> None:
        conversation.used_at = self._clock()
        self._kept.pop(conversation.id, None)
        self._kept[conversation.id] = conversation
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._limits.ttl_seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.drop_old()
        if self._kept:
            first = min(one.used_at for one in self._kept.values())
            seconds = max(1.0, first + self._limits.ttl_seconds - self._clock())
            self._timer = asyncio.get_running_loop().call_later(seconds, self._on_timer)

    def _drop_too_much(self) -> None:
        """Drop conversations beyond the bounds, the one that was used longest ago first; none with a question that is
        being answered."""
        while reason := self._excess():
            idle = next((one for one in self._kept.values() if not one.is_busy), None)
            if idle is None:
                return
            self._drop(idle, reason)

    def _excess(self) -> str:
        if len(self._kept) > self._limits.max_number:
            return "number"
        return "bytes" if self.num_bytes > self._limits.max_bytes else ""

    def _drop(self, conversation: KeptConversation, reason: str) -> None:
        del self._kept[conversation.id]
        self.metrics.count_dropped(reason)
        if conversation.adding is not None and not conversation.is_busy:
            with suppress(RuntimeError):  # of a loop that is closed
                conversation.adding.cancel()


def _count(memory: "Memory | None") -> int:
    return 0 if memory is None else len(memory.segments)


def _unknown(name: str) -> ApiError:
    return ApiError(404, f"{PARAM}: there is no conversation {name!r}", PARAM, "conversation_not_found")


def _check(kept: KeptConversation, asked: ConversationAsked) -> None:
    """Raise ApiError (409) for a request that does not continue a conversation."""
    if kept.is_busy:
        raise _conflict(kept.id, "a question of it is being answered; send this one after that", "conversation_busy")
    if kept.model != asked.model:
        raise _conflict(kept.id, f"it is one with {kept.model}, not {asked.model}; take another id")
    if kept.system != asked.system:
        raise _conflict(kept.id, "its system message was another; take another id")
    num_sent, num_kept = len(asked.exchanges), len(kept.exchanges)
    if num_sent < num_kept and kept.exchanges[num_sent].user != asked.question.question.strip():
        reason = f"it has {num_kept} answers, and the messages before this one have {num_sent}; send all its messages"
        raise _conflict(kept.id, f"{reason}, or take another id")
    for number, (said, sent) in enumerate(zip(kept.exchanges, asked.exchanges, strict=False), start=1):
        if said != sent:
            whose = "the user's message" if said.user != sent.user else "the answer"
            reason = f"{whose} of its exchange {number} was another; send its messages as they were, or take another id"
            raise _conflict(kept.id, reason)


def _conflict(name: str, reason: str, code: str = "conversation_conflict") -> ApiError:
    return ApiError(409, f"{PARAM} {name}: {reason}", PARAM, code)
