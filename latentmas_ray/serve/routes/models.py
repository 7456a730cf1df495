"""`/v1/models`: each topology with each method is a model."""

from typing import Any

from fastapi import APIRouter, Request

from latentmas_ray.serve.teams.settings import OWNER

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Return all models."""
    return {"object": "list", "data": [_model(name) for name in request.app.state.teams.models]}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}
