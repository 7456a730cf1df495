"""A server with the live page and a scripted team in place of a real one."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from latentmas_ray.serve.routes import page

CHAIN = ("planner", "critic", "refiner", "judger")
MERGE = {
    "algebra expert": (),
    "biology expert": (),
    "coder": (),
    "summariser": ("algebra expert", "biology expert", "coder"),
}
HOSTILE = "<img src=x onerror=\"document.title = 'taken'\"><script>document.title = 'taken'</script>"


def model(topology: str, method: str = "latent") -> dict[str, Any]:
    """The description of one served model, as `/v1/models` gives it."""
    last = "text" if method == "text" else "latent"
    if method == "single":
        agents = [{"name": "judger", "thinks": "text", "reads": []}]
    elif topology == "hierarchical":
        agents = [
            {"name": name, "thinks": "text" if reads else last, "reads": list(reads)} for name, reads in MERGE.items()
        ]
    else:
        agents = [
            {"name": name, "thinks": "text" if name == CHAIN[-1] else last, "reads": list(CHAIN[place - 1 : place])}
            for place, name in enumerate(CHAIN)
        ]
    about = {"topology": topology, "method": method, "model": "tiny", "agents": agents, "max_tokens": 256}
    if method == "latent":
        about |= {"latent_steps": 40, "example": "How many beads has Nadia?"}
    name = f"latentmas/{topology}" + ("" if method == "latent" else f"/{method}")
    return {"id": name, "object": "model", "created": 0, "owned_by": "latentmas", "latentmas": about}


MODELS = [
    model(topology, method) for topology in ("sequential", "hierarchical") for method in ("latent", "single", "text")
]


class ScriptedTeam:
    """What the server has been asked, and how it answers. The question's words decide:

    `hold` waits before the last agent until `release` is called; `full` is refused with 429; `breaks` ends with an
    error in the stream, `drops` without its end. Anything else is answered with the question itself."""

    def __init__(self, *, key: str | None = None) -> None:
        self.key = key
        self.asked: list[dict[str, Any]] = []
        self.num_cancelled = 0
        self._go = threading.Event()

    def release(self) -> None:
        self._go.set()

    def reset(self) -> None:
        self.asked.clear()
        self.num_cancelled = 0
        self._go.clear()

    async def stream(self, request: dict[str, Any]) -> AsyncIterator[str]:
        about = next(one["latentmas"] for one in MODELS if one["id"] == request["model"])
        question = request["messages"][-1]["content"]
        finished = False
        try:
            for record in _records(about, lens=request["latentmas"].get("lens", False)):
                while "hold" in question and record["what"] == "writes" and not self._go.is_set():
                    await asyncio.sleep(0.01)
                yield _chunk(choices=[], latentmas=record)
                await asyncio.sleep(0.004)
            for start in range(0, len(question), 3):
                yield _chunk(choices=[{"index": 0, "delta": {"content": question[start : start + 3]}}])
                if "drops" in question:
                    finished = True
                    return
            if "breaks" in question:
                yield _chunk(
                    error={
                        "message": "An actor was lost; ask again.",
                        "type": "server_error",
                        "param": None,
                        "code": "aborted",
                    }
                )
            else:
                yield _chunk(choices=[], usage={"prompt_tokens": 400, "completion_tokens": 12, "latent_steps": 120})
            yield "data: [DONE]\n\n"
            finished = True
        finally:
            self.num_cancelled += not finished

    def app(self) -> FastAPI:
        app = FastAPI()
        app.include_router(page.router)

        def refusal(status: int, message: str, **headers: str) -> Response:
            return JSONResponse(
                {"error": {"message": message, "type": "x", "param": None, "code": None}}, status, headers
            )

        def is_known(request: Request) -> bool:
            return self.key is None or request.headers.get("authorization") == f"Bearer {self.key}"

        async def list_models(request: Request) -> Response:
            return (
                JSONResponse({"object": "list", "data": MODELS})
                if is_known(request)
                else refusal(401, "Give an API key.")
            )

        async def complete(request: Request) -> Response:
            body = await request.json()
            self.asked.append(body)
            if not is_known(request):
                return refusal(401, "Give an API key.")
            if "full" in body["messages"][-1]["content"]:
                return refusal(429, "128 questions wait already.", **{"Retry-After": "3"})
            return StreamingResponse(self.stream(body), media_type="text/event-stream")

        app.add_api_route("/v1/models", list_models, methods=["GET"])
        app.add_api_route("/v1/chat/completions", complete, methods=["POST"])
        return app


def _chunk(**fields: Any) -> str:
    return f"data: {json.dumps({'object': 'chat.completion.chunk', **fields})}\n\n"


def _records(about: dict[str, Any], *, lens: bool) -> Iterator[dict[str, Any]]:
    """The records that the page gets of one question, in the order in which a server knows it."""
    for agent in about["agents"]:
        yield {"agent": agent["name"], "what": "waits", "running": True}
    read: dict[str, list[str]] = {}
    for agent in about["agents"]:
        name, is_latent = agent["name"], agent["thinks"] == "latent"
        read[name] = [one for source in agent["reads"] for one in (*read[source], source)]
        yield {"agent": name, "what": "reads", "running": True, "tokens": 100}
        for part in (3, 20, 40):
            yield {
                "agent": name,
                "what": "thinks" if is_latent else "writes",
                "running": True,
                "latent_steps" if is_latent else "tokens": part,
                "of": 40,
            }
        for source in read[name] if about["method"] == "latent" else ():
            yield {
                "agent": source, "what": "hands_over", "to": name, "bytes": 196_608, "transport": "shared_memory",
                "seconds": 0.004, "exposed_seconds": 0.002,
            }  # fmt: skip
        yield {"agent": name, "what": "waits", "seconds": 0.01}
        yield {"agent": name, "what": "reads", "seconds": 0.05, "tokens": 100}
        if is_latent:
            yield {"agent": name, "what": "thinks", "seconds": 0.3, "latent_steps": 40}
            if lens:
                thought = {
                    "tokens": [["Notes", 0.9], [HOSTILE, 0.1]],
                    "entropy": 0.4,
                    "norm": 18.0,
                    "distance": 0.8,
                    "nearest": "Notes",
                }
                yield {
                    "agent": name,
                    "what": "thoughts",
                    "thoughts": [{**thought, "entropy": 0.1 * step} for step in range(40)],
                }
        else:
            yield {"agent": name, "what": "writes", "seconds": 0.6, "tokens": 12}


@contextmanager
def serving(app: FastAPI, *, port: int = 0) -> Iterator[str]:
    """Serve the app in a thread; the value is its address, `http://127.0.0.1:PORT`."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
