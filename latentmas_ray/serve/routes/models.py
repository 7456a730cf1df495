"""`/v1/models`: each topology with each method is a model."""

from typing import Any

from fastapi import APIRouter, Request

from latentmas_ray.serve.teams.described import describe
from latentmas_ray.serve.teams.served import ServedTeams
from latentmas_ray.serve.teams.settings import OWNER
from latentmas_ray.system.serving import ServedModel

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Return all models."""
    teams: ServedTeams = request.app.state.teams
    return {"object": "list", "data": [_model(name, model) for name, model in teams.models.items()]}


def _model(name: str, model: ServedModel) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER, "latentmas": describe(model)}
