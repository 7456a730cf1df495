"""`/v1/chat/completions`: the last message asks the team."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from latentmas_ray.serve.api.messages import chat_question
from latentmas_ray.serve.api.requests import ChatRequest, parse_chat
from latentmas_ray.serve.api.responses import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatResponse,
    ChunkChoice,
    MessageDelta,
    ResponsePart,
)
from latentmas_ray.serve.conversations.asked import caller_of, conversation_of
from latentmas_ray.serve.routes.answering import HttpQuestions
from latentmas_ray.serve.routes.asked import num_choices, team_request, usage_of
from latentmas_ray.serve.teams.endpoint import Endpoint
from latentmas_ray.serve.teams.reply import AgentRecord, TeamAnswer, TextPiece

router = APIRouter()


@router.post("/v1/chat/completions")
async def complete_chat(request: Request) -> Response:
    """Answer the last message, whole or as a stream of chunks."""
    asked = parse_chat(await request.body())
    endpoint: Endpoint = request.app.state.endpoint
    model = endpoint.model(asked.model)
    question = chat_question(asked, "q0", endpoint.limits.messages)
    count = num_choices(asked, model)
    name, created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
    form = _ChatForm(asked, model.topology.answering_agents[0].name, name, created, count)
    conversation = conversation_of(asked, question, count, caller_of(request), endpoint.limits.conversations)
    return await HttpQuestions(
        request=request, asked=[team_request(asked, question, model)], form=form, conversation=conversation
    ).answer()


@dataclass(frozen=True)
class _ChatForm:
    """OpenAI's form of chats. A chat is one question."""

    asked: ChatRequest
    answering_agent: str
    id: str
    created: int
    num_choices: int

    def whole(self, answers: Sequence[TeamAnswer]) -> ResponsePart:
        choices = tuple(
            ChatChoice(index=index, message=AnswerMessage(content=one.text), finish_reason=one.finish_reason)
            for index, one in enumerate(answers[0].choices)
        )
        usage = usage_of(answers, self.answering_agent)
        details = {"records": list(answers[0].records)} if self.asked.latentmas.trace else None
        return ChatResponse(
            id=self.id, created=self.created, model=self.asked.model, choices=choices, usage=usage, latentmas=details
        )

    def begin(self) -> list[ResponsePart]:
        first = MessageDelta(role="assistant", content="")
        return [self._chunk(ChunkChoice(index=index, delta=first)) for index in range(self.num_choices)]

    def piece(self, reply: int, piece: TextPiece) -> ResponsePart:
        return self._chunk(ChunkChoice(index=piece.choice, delta=MessageDelta(content=piece.text)))

    def record(self, record: AgentRecord) -> ResponsePart:
        return ChatChunk(
            id=self.id, created=self.created, model=self.asked.model, choices=(), latentmas=dict(record.record)
        )

    def end(self, reply: int, answer: TeamAnswer) -> list[ResponsePart]:
        return [
            self._chunk(ChunkChoice(index=index, delta=MessageDelta(), finish_reason=choice.finish_reason))
            for index, choice in enumerate(answer.choices)
        ]

    def usage(self, answers: Sequence[TeamAnswer]) -> list[ResponsePart]:
        if not self.asked.streams_usage:
            return []
        usage = usage_of(answers, self.answering_agent)
        return [ChatChunk(id=self.id, created=self.created, model=self.asked.model, choices=(), usage=usage)]

    def _chunk(self, choice: ChunkChoice) -> ChatChunk:
        return ChatChunk(id=self.id, created=self.created, model=self.asked.model, choices=(choice,))
