"""The endpoint as an application of Ray Serve: `serve run latentmas_ray.serve.ray_app:app model=tiny`.

A replica of the deployment is an ingress with a team of its own: the FastAPI application of `latentmas serve`, and the
actors of its agents, which it starts on the cluster that it is part of and which end with it. So Serve's autoscaler,
which goes by the requests that a replica has, adds and removes whole teams; which agent has how many actors within a
team is the team's own (`replicas`, `max_replicas`).
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve

from latentmas_ray.serve.app import make_app
from latentmas_ray.serve.ray_arguments import AppArguments
from latentmas_ray.serve.teams.served import ServedTeams

DEPLOYMENT = "Team"
_SPARE_REQUESTS = 64  # of a replica: those that its own queue refuses, /health and the like
_DRAIN_SECONDS = 600.0


def app(arguments: Mapping[str, Any]) -> serve.Application:
    """Build the application. `arguments` are fields of `RunConfig`, `topologies`, and `limits`, a mapping of fields of
    `ServeLimits`; see `ray_arguments`. Raises InputError kinds before anything starts."""
    application: serve.Application = team_deployment(arguments).bind()
    return application


def team_deployment(arguments: Mapping[str, Any]) -> serve.Deployment:
    """Return the deployment of `app`, for callers that set its options themselves, such as `num_replicas`."""
    given = AppArguments.read(arguments)
    given.make_teams()  # raises what a replica would raise, where the user sees it

    def build() -> FastAPI:
        return make_app(given.make_teams(), given.limits())

    limits = given.limits()
    return serve.deployment(
        serve.ingress(build)(TeamReplica),
        name=DEPLOYMENT,
        # The queue of the endpoint refuses what is too much, with 429; Serve's own would let it wait without a bound.
        max_ongoing_requests=limits.max_running + limits.max_waiting + _SPARE_REQUESTS,
        graceful_shutdown_timeout_s=_DRAIN_SECONDS,
        ray_actor_options={"num_cpus": 0},  # cores are for agents; this one waits for them
    )


class TeamReplica:
    """One replica: the ingress of a team. Serve makes it, and gives it its application as `app`."""

    app: FastAPI

    def check_health(self) -> None:
        """Called by Serve every few seconds. Raises RuntimeError if the team is lost and was not started again."""
        teams: ServedTeams = self.app.state.endpoint.teams
        if not teams.is_ready:
            raise RuntimeError("the team's actors are not there")
