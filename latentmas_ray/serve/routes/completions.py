"""`/v1/completions`: each prompt is a question. Several answers to several prompts are numbered prompt by prompt."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from latentmas_ray.serve.api.messages import completion_questions
from latentmas_ray.serve.api.requests import CompletionRequest, parse_completion
from latentmas_ray.serve.api.responses import ResponsePart, TextChoice, TextResponse
from latentmas_ray.serve.conversations.asked import refuse_conversation
from latentmas_ray.serve.routes.answering import HttpQuestions
from latentmas_ray.serve.routes.asked import num_choices, team_request, usage_of
from latentmas_ray.serve.teams.endpoint import Endpoint
from latentmas_ray.serve.teams.reply import AgentRecord, TeamAnswer, TextPiece

router = APIRouter()


@router.post("/v1/completions")
async def complete(request: Request) -> Response:
    """Answer the prompts, whole or as a stream of chunks."""
    asked = parse_completion(await request.body())
    endpoint: Endpoint = request.app.state.endpoint
    model = endpoint.model(asked.model)
    refuse_conversation(asked.latentmas.conversation)
    questions = completion_questions(asked, "q0", endpoint.limits.messages)
    name, created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
    form = _TextForm(asked, model.topology.answering_agents[0].name, name, created, num_choices(asked, model))
    requests = [team_request(asked, question, model) for question in questions]
    return await HttpQuestions(request=request, asked=requests, form=form, texts="prompt").answer()


@dataclass(frozen=True)
class _TextForm:
    """OpenAI's form of completions."""

    asked: CompletionRequest
    answering_agent: str
    id: str
    created: int
    num_choices: int  # of each prompt

    def whole(self, answers: Sequence[TeamAnswer]) -> ResponsePart:
        texts = [choice for answer in answers for choice in answer.choices]
        choices = [
            TextChoice(index=index, text=one.text, finish_reason=one.finish_reason) for index, one in enumerate(texts)
        ]
        response = self._response(choices)
        return response.model_copy(update={"usage": usage_of(answers, self.answering_agent)})

    def begin(self) -> list[ResponsePart]:
        return []

    def piece(self, reply: int, piece: TextPiece) -> ResponsePart:
        index = reply * self.num_choices + piece.choice
        return self._response([TextChoice(index=index, text=piece.text, finish_reason=None)])

    def record(self, record: AgentRecord) -> ResponsePart:
        return self._response([]).model_copy(update={"latentmas": dict(record.record)})

    def end(self, reply: int, answer: TeamAnswer) -> list[ResponsePart]:
        first = reply * self.num_choices
        return [
            self._response([TextChoice(index=first + index, text="", finish_reason=choice.finish_reason)])
            for index, choice in enumerate(answer.choices)
        ]

    def usage(self, answers: Sequence[TeamAnswer]) -> list[ResponsePart]:
        if not self.asked.streams_usage:
            return []
        return [self._response([]).model_copy(update={"usage": usage_of(answers, self.answering_agent)})]

    def _response(self, choices: Sequence[TextChoice]) -> TextResponse:
        return TextResponse(id=self.id, created=self.created, model=self.asked.model, choices=tuple(choices))
