"""What a request says of its conversation."""

from dataclasses import dataclass, replace

from fastapi import Request

from latentmas_ray.serve.api.errors import ApiError, bad_field
from latentmas_ray.serve.api.messages import without_thoughts
from latentmas_ray.serve.api.requests import ChatRequest
from latentmas_ray.serve.conversations.limits import ConversationLimits
from latentmas_ray.system.serving import ChatExchange
from latentmas_ray.tasks.question import Question

PARAM = "latentmas.conversation"


@dataclass(frozen=True, kw_only=True)
class ConversationAsked:
    """The conversation of a request: who asks, and what was said before the last message, which `question` has."""

    id: str
    key: str  # the name of the caller's key
    model: str
    system: str
    exchanges: tuple[ChatExchange, ...]  # before the question
    question: Question

    @property
    def bare_question(self) -> Question:
        """The question without the messages before it, which the agents have in memory."""
        return replace(self.question, earlier=())

    def exchange(self, answer: str) -> ChatExchange:
        """The exchange that this answer makes."""
        return ChatExchange.of(self.question.question, without_thoughts(answer))


def caller_of(request: Request) -> str:
    """Return the name of the caller's key; `-` without keys."""
    return str(request.scope.get("state", {}).get("api_key", "-"))


def conversation_of(
    request: ChatRequest, question: Question, num_choices: int, key: str, limits: ConversationLimits
) -> ConversationAsked | None:
    """Return the conversation of a chat; None if it has no id. Raises ApiError (400) for several answers, and for more
    messages than are kept."""
    if (name := request.latentmas.conversation) is None:
        return None
    if num_choices > 1:
        raise bad_field("n", num_choices, "a conversation has one answer at each turn: it must be 1")
    exchanges = _exchanges(question)
    if len(exchanges) >= limits.max_exchanges:
        expected = f"it has {len(exchanges)} answers before its last message; at most {limits.max_exchanges - 1}"
        raise bad_field(PARAM, name, f"{expected} can be: begin another, or leave out the id", "conversation_too_long")
    return ConversationAsked(
        id=name,
        key=key,
        model=request.model,
        system=question.system,
        exchanges=exchanges,
        question=question,
    )


def refuse_conversation(name: str | None) -> None:
    """Raise ApiError (400) for an id where there are no messages."""
    if name is not None:
        raise ApiError(400, f"{PARAM}: it is for /v1/chat/completions, which has messages", PARAM, "invalid_value")


def _exchanges(question: Question) -> tuple[ChatExchange, ...]:
    """The messages before the question, which alternate and end with an answer, in pairs."""
    exchanges, user = [], ""
    for message in question.earlier:
        if message.role == "user":
            user = message.content
        else:
            exchanges.append(ChatExchange.of(user, message.content))
            user = ""
    return tuple(exchanges)
