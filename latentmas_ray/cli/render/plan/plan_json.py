"""A plan and its predictions as values for JSON."""

from dataclasses import asdict
from typing import Any

from latentmas_ray.config import RunConfig
from latentmas_ray.placement import LinkSpeeds, ModelDims, Plan
from latentmas_ray.placement.prediction.layout_search import LayoutSearch, PredictedPlan
from latentmas_ray.placement.prediction.run_layout import run_flags
from latentmas_ray.system.team.run_models import team_of


def plan_to_json(made: Plan, speeds: LinkSpeeds, config: RunConfig) -> dict[str, Any]:
    """Return all figures of a plan whose request has a model and a topology."""
    request, figures = made.request, made.request.model
    assert figures is not None
    assert request.topology is not None
    first = team_of(config, request.topology).models[0]
    return {
        **_model_to_json(first.name, figures),
        "models": {agent: _model_to_json(name, request.dims_of(agent)) for agent, name in request.other_models.items()},
        "workload": asdict(request.workload),
        "placement": made.strategy,
        "why": made.why,
        "tp": request.tp,
        "replicas": dict(request.replicas),
        "actor": asdict(made.share),
        "nodes": [asdict(node) for node in request.nodes],
        "demands": [asdict(demand) for demand in made.memory_estimates.values()],
        "shards": [
            {
                "agents": list(shard.replica_id.agents),
                "replica": shard.replica_id.replica,
                "rank": shard.rank,
                **asdict(shard.slot),
                **asdict(made.memory_of(shard.replica_id)),
            }
            for shard in made.shards()
        ],
        "loading_bytes": [made.loading_bytes.get(node, 0) for node in range(len(request.nodes))],
        "speeds": asdict(speeds),
        "hand_overs": [asdict(one) for one in made.hand_overs(speeds)],
    }


def _model_to_json(name: str, figures: ModelDims) -> dict[str, Any]:
    return {
        "model": name,
        "num_parameters": figures.num_parameters,
        "dtype": figures.dtype,
        "bytes_per_token": figures.bytes_per_token,
        "state_bytes_per_question": figures.state_bytes,
        "cache": None if figures.cache is None else figures.cache.kinds,
    }


def predictions_to_json(search: LayoutSearch, found: list[PredictedPlan]) -> dict[str, Any]:
    """Return the figures that are predicted, and all plans that were; nothing if none was."""
    if not found:
        return {}
    return {
        "hardware": asdict(search.device_hardware),
        "run": None if (run := search.run_of(found)) is None else run_flags(run[1]),
        "predicted": [
            {
                "placement": one.plan.strategy,
                "tp": one.plan.request.tp,
                "replicas": dict(one.plan.request.replicas),
                "use": one.prediction.use,
                **asdict(one.prediction),
            }
            for one in found
        ],
    }
