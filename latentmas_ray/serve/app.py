"""The ASGI application of an endpoint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from latentmas_ray.serve.admission.guard import RequestGuard
from latentmas_ray.serve.admission.limits import ServeLimits
from latentmas_ray.serve.api.handlers import add_error_handlers
from latentmas_ray.serve.routes import chat, completions, conversations, health, models, page
from latentmas_ray.serve.teams.endpoint import Endpoint
from latentmas_ray.serve.teams.metrics import ServeMetrics
from latentmas_ray.serve.teams.served import ServedTeams
from latentmas_ray.serve.tracing import RequestSpans


def make_app(
    teams: ServedTeams, limits: ServeLimits | None = None, *, loads: bool = True, metrics: ServeMetrics | None = None
) -> FastAPI:
    """Return the application that serves these teams. It closes them, or those that replaced them, when it ends; if it
    `loads`, it starts them before it takes requests, else the caller does. `app.state.endpoint` is its `Endpoint`."""
    limits = limits or ServeLimits()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            if loads:
                await teams.start()
            app.state.endpoint.conversations.drop_old()  # its metrics are there from the start
            yield
        finally:
            await app.state.endpoint.aclose()

    # A path is there or it is not: a redirection would name the server as the request's header Host does.
    app = FastAPI(
        title="latentmas", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.state.endpoint = Endpoint(teams, limits, metrics or teams.metrics)
    for module in (models, chat, completions, conversations, health, page):
        app.include_router(module.router)
    add_error_handlers(app)
    app.add_middleware(RequestGuard, limits=limits)
    if teams.fleet.spans.is_on:
        app.add_middleware(RequestSpans, spans=teams.fleet.spans)
    return app
