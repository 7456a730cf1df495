"""`ServedTeams`: the models that an endpoint serves, on the actors of one fleet."""

import asyncio
import logging
import secrets
from dataclasses import replace
from functools import partial

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import RunError
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.serve.teams.batcher import Batcher, Lot, Stages
from latentmas_ray.serve.teams.lot_run import LotRun
from latentmas_ray.serve.teams.metrics import ServeMetrics, TurnMetrics
from latentmas_ray.serve.teams.progress import RunningTurns
from latentmas_ray.serve.teams.reply import Reply
from latentmas_ray.serve.teams.settings import OWNER, TeamRequest, stream_name
from latentmas_ray.system.serving import Fleet, TeamVariant

_LOG = logging.getLogger(__name__)
_IN_ONE_PIECE = (
    "streams have the answer in one piece, when it is complete: its agent writes batch by batch, on an actor that "
    "thinks (one that agents share, or the only one with its model)"
)


class ServedTeams:
    """Answers requests. All methods but the constructor are called in one event loop."""

    def __init__(
        self, config: RunConfig, topologies: tuple[str, ...] = (), *, before: "ServedTeams | None" = None
    ) -> None:
        """Check the configuration; `topologies` are served besides its own, on the actors of the teams `before`, if
        there are some. Raises InputError kinds."""
        self.config = config
        self.metrics: ServeMetrics = ServeMetrics() if before is None else before.metrics
        if before is None:
            self.fleet = Fleet(config, topologies, make_sink=partial(TurnMetrics, self.metrics.registry))
        else:
            self.fleet = before.fleet.with_topologies(topologies)
        self.models: dict[str, TeamVariant] = {f"{OWNER}/{name}": one for name, one in self.fleet.models.items()}
        self.num_open = 0  # requests to them that are not over
        self._running_turns = RunningTurns(self.fleet.running_turns)
        self._info: RuntimeInfo | None = None
        self._stages: dict[str, Stages] = {}
        self._batcher = Batcher(self._stages_of, self._writes_at_once, self._start_lot, config.batch_size)
        self._tasks: dict[Lot, asyncio.Task[None]] = {}
        self._runs: dict[Lot, LotRun] = {}
        self._lot_of: dict[Reply, Lot] = {}

    @property
    def info(self) -> RuntimeInfo:
        """What the started runtime is. Raises RunError before `start`."""
        if self._info is None:
            raise RunError("the models are not loaded yet")
        return self._info

    @property
    def is_ready(self) -> bool:
        """Whether the models are loaded."""
        return self._info is not None

    @property
    def num_waiting(self) -> int:
        """Questions that wait for thinking agents."""
        return self._batcher.num_waiting

    @property
    def num_running(self) -> int:
        """Questions that agents work on."""
        return len(self._lot_of)

    @property
    def num_lots(self) -> int:
        """Batches whose run is not over."""
        return len(self._tasks)

    async def start(self) -> RuntimeInfo:
        """Start the actors and load the models. Raises the errors of `Runtime.start`."""
        self._info = await asyncio.to_thread(self._load)
        if whole := [name for name, model in self.models.items() if model.answers_once and not self.streams(name)]:
            _LOG.warning("%s: %s", ", ".join(whole), _IN_ONE_PIECE)
        return self._info

    def streams(self, name: str) -> bool:
        """Whether a model's text comes as it is written: not one that is made of several, and none of an actor that
        writes batch by batch. Raises RunError before `start`."""
        model = self.models[name]
        writes = model.config.runtime == "local" or model.topology.answering_agents[0].name in self.info.writes_at_once
        return model.answers_once and writes

    def _load(self) -> RuntimeInfo:
        info = self.fleet.start()
        for model in self.models.values():
            for agent in model.topology.answering_agents:
                model.setup.chat_of(agent.name)  # so that no stream waits for it
        return info

    def with_topologies(self, topologies: tuple[str, ...]) -> "ServedTeams":
        """Return the teams of these topologies, and of the configured one, read again, on the same actors. They have to
        be started; questions to the teams of before are answered by those. Raises InputError kinds, and nothing has
        changed then."""
        return ServedTeams(self.config, topologies, before=self)

    async def aclose(self) -> None:
        """Cancel all questions and shut down the actors."""
        for reply in self._batcher.close():
            reply.fail(RunError("the server gave the question up"))
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self.fleet.close)
        self._info = None

    def ask(self, request: TeamRequest) -> Reply:
        """Queue a question and return its reply. Raises KeyError for an unknown model, InputError kinds for settings
        that it cannot do, RunError before `start`."""
        if self._info is None:
            raise RunError("the models are not loaded yet")
        model = self.models[request.model]
        temperature = request.settings.temperature
        temperature = model.config.temperature if temperature is None else temperature
        name = stream_name(request.settings, temperature) or secrets.token_hex(8)
        reply = Reply(request, replace(request.question, id=name), self.cancel)
        self.fleet.call(model, request.settings, [reply.question])  # what is wrong is said before it waits
        self._batcher.add(reply)
        return reply

    def cancel(self, reply: Reply) -> None:
        """End a question whose client has left. Safe to call twice, and after its end."""
        reply.is_over = True
        if not self._batcher.remove(reply) and (lot := self._lot_of.pop(reply, None)) is not None:
            self._runs[lot].withdraw(reply)  # of which no result comes
            self._batcher.start_next()

    def _stages_of(self, reply: Reply) -> Stages:
        name = reply.request.model
        if name not in self._stages:
            model = self.models[name]
            writes = self.info.writes_at_once
            agents = [one for one in model.topology.agents if one.thinks == "latent" or one.name not in writes]
            self._stages[name] = Stages(
                roots=frozenset(one.name for one in agents if not one.reads),
                thinkers=frozenset(one.name for one in agents),
                replicas=model.config.most_replicas,
                writers=frozenset(
                    self.fleet.text_actor_of(one.name) for one in model.topology.agents if one not in agents
                ),
            )
        return self._stages[name]

    def _writes_at_once(self, reply: Reply) -> int | None:
        """Return how many answers are written at the same time by the replicas that there are now, if question by
        question."""
        now = self.fleet.writes_at_once()
        return min(now.get(one.name, 0) for one in self.models[reply.request.model].topology.answering_agents) or None

    def _start_lot(self, lot: Lot) -> None:
        self._lot_of.update(dict.fromkeys(lot.replies, lot))
        model = self.models[lot.replies[0].request.model]
        self._runs[lot] = LotRun(self.fleet, model, lot, self._batcher.note, self._running_turns)
        self._tasks[lot] = asyncio.create_task(self._run(lot))

    async def _run(self, lot: Lot) -> None:
        again: list[Reply] = []
        try:
            again = await self._runs[lot].run(self._note_end)
        finally:
            for reply in lot.replies:
                self._forget(reply)
            del self._tasks[lot], self._runs[lot]
            self._batcher.finish(lot)
            self._batcher.add_alone(again)

    def _note_end(self, reply: Reply) -> None:
        self._forget(reply)
        self._batcher.start_next()  # the backlog of those who write is shorter

    def _forget(self, reply: Reply) -> None:
        self._lot_of.pop(reply, None)
