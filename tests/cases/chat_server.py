"""A server that speaks the API without a model: what a question says is what happens to it."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

MODELS = ("latentmas/sequential", "latentmas/sequential/single")


@dataclass
class ChatServer:
    """What the server has seen."""

    url: str = ""
    bodies: list[dict[str, object]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    num_open: int = 0
    most_open: int = 0
    seconds: float = 0.0  # from one token to the next
    waits_for: int = 0  # requests at the same time, before which none is answered
    is_waited_for: asyncio.Event = field(default_factory=asyncio.Event)

    def answer_to(self, question: str, number: int) -> str:
        """The `number`-th answer to this question."""
        return f"{question} again {number}" if "changes" in question else f"{question} is clear"


@contextmanager
def chat_server(seconds: float = 0.0, *, waits_for: int = 0) -> Iterator[ChatServer]:
    """Run a server in a thread of its own, whose questions say what happens.

    `refused` is refused with 429 once, `wrong` with 400; `broken` ends in an error event, `cut` without an end,
    `garbled` with what is no JSON, `slow` after ten seconds; the answer to `changes` is another one each time.
    """
    server = ChatServer(seconds=seconds, waits_for=waits_for)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(_app(server), access_log=None, shutdown_timeout=0.1)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    port = loop.run_until_complete(start())
    server.url = f"http://127.0.0.1:{port}/v1"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _app(server: ChatServer) -> web.Application:
    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})

    async def chat(request: web.Request) -> web.StreamResponse:
        server.num_open += 1
        server.most_open = max(server.most_open, server.num_open)
        if server.most_open >= server.waits_for:
            server.is_waited_for.set()
        try:
            await server.is_waited_for.wait()
            return await _chat(server, request)
        finally:
            server.num_open -= 1

    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", chat)])
    return app


async def _chat(server: ChatServer, request: web.Request) -> web.StreamResponse:
    body = await request.json()
    server.keys.add(request.headers.get("Authorization"))
    question = body["messages"][-1]["content"]
    number = sum(one["messages"] == body["messages"] for one in server.bodies)
    server.bodies.append(body)
    if "wrong" in question:
        return _error(400, "invalid_value")
    if "refused" in question and number == 0:
        return _error(429, "queue_full", {"Retry-After": "0.01"})
    answer = server.answer_to(question, number)
    if not body.get("stream"):
        await asyncio.sleep(10.0 if "slow" in question else 0.0)
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(_envelope(body, "chat.completion") | {"choices": [choice], "usage": _usage(answer)})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await _send(response, body, [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}])
    for word in answer.split():
        await asyncio.sleep(10.0 if "slow" in question else server.seconds)
        await _send(response, body, [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}])
        if "broken" in question:
            error = {"error": {"message": "an actor died", "type": "server_error", "param": None, "code": "aborted"}}
            await response.write(f"data: {json.dumps(error)}\n\n".encode())
            return response
        if "cut" in question:
            return response
        if "garbled" in question:
            await response.write(b"data: {no json\n\n")
    await _send(response, body, [{"index": 0, "delta": {}, "finish_reason": "stop"}])
    await _send(response, body, [], usage=_usage(answer))
    await _send(response, body, [], latentmas={"agent": "judger", "what": "writes"})
    await response.write(b"data: [DONE]\n\n")
    return response


async def _send(response: web.StreamResponse, body: dict[str, object], choices: list[object], **more: object) -> None:
    event = _envelope(body, "chat.completion.chunk") | {"choices": choices} | more
    await response.write(f"data: {json.dumps(event)}\n\n".encode())


def _envelope(body: dict[str, object], kind: str) -> dict[str, object]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body["model"]}


def _usage(answer: str) -> dict[str, object]:
    count = len(answer.split())
    return {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count, "latent_steps": 30}


def _error(status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
    error = {"message": "no", "type": "some_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)
