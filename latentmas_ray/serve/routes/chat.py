"""`/v1/chat/completions`."""

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from latentmas_ray.errors import InputError, LatentMASError
from latentmas_ray.serve.teams.reply import Reply, TeamAnswer, TextDelta
from latentmas_ray.serve.teams.served import ServedTeams, question_of
from latentmas_ray.serve.teams.settings import TeamRequest
from latentmas_ray.system.serving import CallSettings

router = APIRouter()


@router.post("/v1/chat/completions")
async def complete_chat(request: Request) -> Response:
    """Answer the last message, whole or as a stream of chunks."""
    body = await request.json()
    teams: ServedTeams = request.app.state.teams
    if body.get("model") not in teams.models:
        return _error(404, f"model {body.get('model')!r} is not served; /v1/models lists those that are")
    asked = TeamRequest(
        model=body["model"],
        question=question_of(body["messages"][-1]["content"]),
        settings=CallSettings(
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
            max_new_tokens=body.get("max_tokens"),
            seed=body.get("seed"),
            samples=body.get("n"),
        ),
        streams=bool(body.get("stream")),
    )
    try:
        reply = teams.ask(asked)
        if asked.streams:
            return StreamingResponse(_stream(reply), media_type="text/event-stream")
        async with reply:
            return JSONResponse(_completion(asked.model, await reply.answered()))
    except InputError as error:
        return _error(400, str(error))
    except LatentMASError as error:
        return _error(503, str(error))


async def _stream(reply: Reply) -> AsyncIterator[str]:
    head = _head(reply.request.model, "chat.completion.chunk")
    async with reply:
        async for event in reply:
            if isinstance(event, TextDelta):
                yield _data({**head, "choices": [{"index": event.choice, "delta": {"content": event.text}}]})
            elif isinstance(event, TeamAnswer):
                for index, choice in enumerate(event.choices):
                    ended = {"index": index, "delta": {}, "finish_reason": choice.finish_reason}
                    yield _data({**head, "choices": [ended]})
                yield _data({**head, "choices": [], "usage": _usage(event)})
    yield "data: [DONE]\n\n"


def _completion(model: str, answered: TeamAnswer) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": choice.text},
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(answered.choices)
    ]
    return {**_head(model, "chat.completion"), "choices": choices, "usage": _usage(answered)}


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def _usage(answered: TeamAnswer) -> dict[str, Any]:
    answer = answered.answer
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.prompt_tokens + answer.output_tokens,
        "latent_steps": answer.latent_tokens,
    }


def _data(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _error(status: int, message: str) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status_code=status)
