"""Requests as OpenTelemetry spans (`--otel`): each is a span of kind server, with its questions and agents under it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentmas_ray.serve.teams.settings import TeamRequest
from latentmas_ray.system.span_calls import SpanCalls

if TYPE_CHECKING:
    from latentmas_ray.runs.otel import RequestSpan

_ROUTES: Final = ("/v1/chat/completions", "/v1/completions", "/v1/models")
_CONVERSATIONS: Final = "/v1/conversations/"
_STATE: Final = "request_span"


class RequestSpans:
    """ASGI middleware that makes the spans of what is asked under `/v1/`."""

    def __init__(self, app: ASGIApp, spans: SpanCalls) -> None:
        self._app, self._spans = app, spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or not path.startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        span = self._spans.start_request(scope["method"], path, _route(path), Headers(scope=scope))
        scope.setdefault("state", {})[_STATE] = span
        seen: dict[str, Any] = {"status": None, "id": "", "is_whole": False}

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.update(status=message["status"], id=Headers(raw=message["headers"]).get("x-request-id", ""))
            elif message["type"] == "http.response.body":
                seen["is_whole"] = not message.get("more_body", False)
            await send(message)

        status: int | None = 500
        try:
            await self._app(scope, receive, watch)
            status = seen["status"] if seen["is_whole"] else None
        finally:
            if span is not None:
                span.end(status, seen["id"])


def with_spans(request: Request, asked: Sequence[TeamRequest]) -> list[TeamRequest]:
    """Return what the team is asked, with the span of its request."""
    span: RequestSpan | None = request.scope.get("state", {}).get(_STATE)
    if span is None:
        return [*asked]
    span.describe(model=asked[0].model, cached_tokens=sum(one.given_tokens for one in asked))
    return [replace(one, span=span) for one in asked]


def _route(path: str) -> str:
    if path in _ROUTES:
        return path
    return f"{_CONVERSATIONS}{{id}}" if path.startswith(_CONVERSATIONS) else ""
