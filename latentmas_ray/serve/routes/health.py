"""`/health`: the process answers. `/ready`: the models are loaded and requests are taken."""

from fastapi import APIRouter, Request, Response

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """Say that this process lives."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request, response: Response) -> dict[str, str]:
    """Say whether requests are answered now; 503 if not."""
    if request.app.state.teams.is_ready:
        return {"status": "ready"}
    response.status_code = 503
    return {"status": "loading"}
