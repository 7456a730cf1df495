"""`/health`: the process answers. `/ready`: requests are taken. `/metrics`: for Prometheus."""

from fastapi import APIRouter, Request, Response

from latentmas_ray.serve.teams.endpoint import Endpoint
from latentmas_ray.serve.teams.metrics import CONTENT_TYPE

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """Say that this process lives."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request, response: Response) -> dict[str, str]:
    """Say whether requests are answered now; 503 if not."""
    endpoint: Endpoint = request.app.state.endpoint
    if endpoint.is_ready:
        return {"status": "ready"}
    response.status_code = 503
    return {"status": "draining" if endpoint.is_draining else "loading"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text form."""
    endpoint: Endpoint = request.app.state.endpoint
    return Response(endpoint.metrics.text(), media_type=CONTENT_TYPE)
