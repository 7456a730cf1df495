"""One turn of a conversation: from what is kept to what the team is asked, and back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from latentmas_ray.serve.conversations.asked import ConversationAsked
from latentmas_ray.serve.conversations.store import ConversationStore, KeptConversation
from latentmas_ray.serve.teams.settings import TeamRequest
from latentmas_ray.system.serving import given_first


class ConversationTurn:
    """The turn of one request, which need not have a conversation."""

    def __init__(
        self, store: ConversationStore, asked: ConversationAsked | None, kept: KeptConversation | None
    ) -> None:
        self._store, self._asked, self._kept = store, asked, kept

    async def prepare(self, requests: Sequence[TeamRequest]) -> list[TeamRequest]:
        """Return what the team is asked: with a conversation, the question on its memory. Raises the errors of a
        run."""
        if self._asked is None or self._kept is None:
            return [*requests]
        (request,) = requests
        memory, num_kept = await self._store.remember(self._kept, self._asked.exchanges)
        request = replace(request, question=self._asked.bare_question, on_answer=self._add)
        if memory is not None:
            request = replace(request, given=given_first(memory), given_tokens=num_kept)
        return [request]

    def _add(self, texts: Sequence[str]) -> None:
        if self._asked is not None and self._kept is not None:
            self._store.add(self._kept, self._asked.exchange(texts[0]))


@contextmanager
def conversation_turn(store: ConversationStore, asked: ConversationAsked | None) -> Iterator[ConversationTurn]:
    """Open the turn of a request. Raises ApiError like `ConversationStore.begin`."""
    kept = None if asked is None else store.begin(asked)
    try:
        yield ConversationTurn(store, asked, kept)
    finally:
        if kept is not None:
            store.end(kept)
