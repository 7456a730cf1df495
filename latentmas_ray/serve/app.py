"""The ASGI application of an endpoint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from latentmas_ray.serve.routes import chat, health, models
from latentmas_ray.serve.teams.served import ServedTeams


def make_app(teams: ServedTeams, limits: object | None = None) -> FastAPI:
    """Return the application that serves these teams; it loads their models when it starts and closes them at the
    end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await teams.start()
            yield
        finally:
            await teams.aclose()

    app = FastAPI(title="latentmas", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.teams, app.state.limits = teams, limits
    for module in (models, chat, health):
        app.include_router(module.router)
    return app
