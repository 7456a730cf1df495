"""`/v1/conversations/ID`: what is kept of a conversation, and its end."""

from typing import Any

from fastapi import APIRouter, Request

from latentmas_ray.serve.api.errors import bad_field
from latentmas_ray.serve.api.sampling import CONVERSATION_FORM, is_conversation_id
from latentmas_ray.serve.conversations.asked import caller_of
from latentmas_ray.serve.conversations.store import ConversationStore

router = APIRouter()


@router.get("/v1/conversations/{name}")
async def show_conversation(name: str, request: Request) -> dict[str, Any]:
    """Say what is kept of a conversation of this key."""
    found = _store(name, request).get(name, caller_of(request))
    return {
        "id": name,
        "object": "conversation",
        "model": found.model,
        "exchanges": len(found.exchanges),
        "kept_tokens": found.num_tokens,
        "kept_bytes": found.num_bytes,
    }


@router.delete("/v1/conversations/{name}")
async def delete_conversation(name: str, request: Request) -> dict[str, Any]:
    """Drop a conversation of this key."""
    _store(name, request).delete(name, caller_of(request))
    return {"id": name, "object": "conversation.deleted", "deleted": True}


def _store(name: str, request: Request) -> ConversationStore:
    if not is_conversation_id(name):
        raise bad_field("conversation", name, CONVERSATION_FORM)
    found: ConversationStore = request.app.state.endpoint.conversations
    return found
