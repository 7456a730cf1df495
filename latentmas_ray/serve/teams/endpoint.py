"""What the routes of one endpoint share: the teams, the queue in front of them, limits and metrics."""

import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import cached_property

from fastapi import Request

from latentmas_ray.config import MAX_NEW_TOKENS
from latentmas_ray.serve.admission.cost import estimate_bytes
from latentmas_ray.serve.admission.limits import ServeLimits
from latentmas_ray.serve.admission.queue import Admission, Ticket
from latentmas_ray.serve.api.errors import ApiError, unknown_model
from latentmas_ray.serve.conversations.store import ConversationStore
from latentmas_ray.serve.teams.metrics import ServeMetrics
from latentmas_ray.serve.teams.served import ServedTeams
from latentmas_ray.serve.teams.settings import TeamRequest
from latentmas_ray.system.serving import Fleet, TeamVariant

_LOADING_SECONDS = 5.0


class Endpoint:
    """One endpoint."""

    def __init__(self, teams: ServedTeams, limits: ServeLimits, metrics: ServeMetrics) -> None:
        self.teams, self.limits, self.metrics = teams, limits, metrics
        self._teams_before: list[ServedTeams] = []  # whose questions may still be answered
        self.started_at = int(time.time())
        self.is_draining = False
        self.num_open = 0  # requests to the team that are not over
        metrics.waiting.set_function(
            lambda: self.admission.num_waiting + sum(one.num_waiting for one in self._all_teams)
        )
        metrics.running.set_function(lambda: sum(one.num_running for one in self._all_teams))

    @property
    def _all_teams(self) -> list[ServedTeams]:
        return [*self._teams_before, self.teams]

    def replace_teams(self, teams: ServedTeams) -> int:
        """Let these teams, which are started on the same actors, answer all requests that come from now on. Returns
        how many questions those of before still answer."""
        self._teams_before = [one for one in self._all_teams if one.num_open]
        self.teams = teams
        return sum(one.num_open for one in self._teams_before)

    async def aclose(self) -> None:
        """Cancel all questions, drop all conversations, and shut down the actors."""
        await self.conversations.aclose()
        for teams in self._all_teams:
            await teams.aclose()

    @cached_property
    def admission(self) -> Admission:
        """The queue."""
        limits = self.limits
        return Admission(
            max_running=limits.max_running,
            max_waiting=limits.max_waiting,
            max_memory_bytes=limits.max_memory_bytes,
        )

    @cached_property
    def conversations(self) -> ConversationStore:
        """The conversations that are kept."""
        return ConversationStore(self._find, self.limits.conversations, self.metrics.registry)

    def _find(self, name: str) -> tuple[Fleet, TeamVariant]:
        """Return a model that is served, or has been when its request came, with its actors."""
        teams = next((one for one in reversed(self._all_teams) if name in one.models), self.teams)
        return teams.fleet, teams.models.get(name) or self.model(name)

    @property
    def request_seconds(self) -> float:
        """How long a request may take."""
        return self.limits.request_seconds

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered now."""
        return self.teams.is_ready and not self.is_draining

    def model(self, name: str) -> TeamVariant:
        """Return a served model. Raises ApiError (404)."""
        if (found := self.teams.models.get(name)) is None:
            raise unknown_model(name, list(self.teams.models))
        return found

    def admit(self, request: Request, asked: Sequence[TeamRequest]) -> AbstractAsyncContextManager[Ticket]:
        """Return the place of a request in the queue. Raises ApiError."""
        if not self.teams.is_ready:
            raise ApiError(503, "the models are being loaded", code="loading", retry_after=_LOADING_SECONDS)
        key = request.scope.get("state", {}).get("caller", "-")
        num_bytes = 0 if self.limits.max_memory_bytes is None else sum(map(self._bytes, asked))
        weight = sum(one.weight for one in asked)
        return self.admission.admit(key, num_questions=len(asked), weight=weight, num_bytes=num_bytes)

    def drain(self) -> None:
        """Take no more requests; those that were taken go to their end."""
        self.is_draining = True
        self.admission.close()

    def _bytes(self, asked: TeamRequest) -> int:
        _, model = self._find(asked.model)
        config, settings = model.config, asked.settings
        info = self.teams.info
        return estimate_bytes(
            asked.question,
            model.topology,
            {agent.name: info.spec_of(agent.name).bytes_per_token for agent in model.topology.agents},
            latent_steps=config.latent_steps if settings.latent_steps is None else settings.latent_steps,
            max_new_tokens=settings.max_new_tokens or config.max_new_tokens or MAX_NEW_TOKENS,
            samples=settings.samples or config.samples,
        )
