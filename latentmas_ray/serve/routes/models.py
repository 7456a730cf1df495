"""`/v1/models`: each topology with each method is a model."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from latentmas_ray.config import EMBEDDED_MODELS, MAX_NEW_TOKENS
from latentmas_ray.serve.api.responses import ModelsResponse, ServedModel
from latentmas_ray.serve.teams.endpoint import Endpoint
from latentmas_ray.system.serving import TeamVariant
from latentmas_ray.tasks.trained import EXAMPLE_OF_CHAIN

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """Return all models."""
    endpoint: Endpoint = request.app.state.endpoint
    models = tuple(_described(endpoint, name) for name in endpoint.teams.models)
    return Response(ModelsResponse(data=models).to_json(), media_type="application/json")


@router.get("/v1/models/{name:path}")
async def show_model(request: Request, name: str) -> Response:
    """Return one model. Raises ApiError (404)."""
    endpoint: Endpoint = request.app.state.endpoint
    endpoint.model(name)
    return Response(_described(endpoint, name).to_json(), media_type="application/json")


def _described(endpoint: Endpoint, name: str) -> ServedModel:
    team = _team(endpoint.teams.models[name])
    if endpoint.teams.is_ready:
        team["streams"] = endpoint.teams.streams(name)
    return ServedModel(id=name, created=endpoint.started_at, latentmas=team)


def _team(model: TeamVariant) -> dict[str, Any]:
    """What a client may show of a team."""
    config, topology = model.config, model.topology
    steps = {"latent_steps": config.latent_steps} if any(one.thinks == "latent" for one in topology.agents) else {}
    example = {"example": EXAMPLE_OF_CHAIN} if config.model in EMBEDDED_MODELS else {}
    return {
        "topology": model.name.partition("/")[0],
        "method": config.method,
        "model": config.model.rstrip("/").rpartition("/")[2],  # of a folder its name: where it is concerns no client
        "agents": [{"name": one.name, "thinks": one.thinks, "reads": list(one.reads)} for one in topology.agents],
        "max_tokens": config.max_new_tokens or MAX_NEW_TOKENS,
        **steps,
        **example,
    }
