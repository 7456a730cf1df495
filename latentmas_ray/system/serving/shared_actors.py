"""The actors of a fleet, which may serve other topologies later, while questions of earlier ones are answered."""

import threading
from collections.abc import Callable, Sequence

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError
from latentmas_ray.scheduler.metrics import MetricSink
from latentmas_ray.scheduler.protocol import RuntimeInfo, StandIns
from latentmas_ray.system.live_runtime import LiveRuntime
from latentmas_ray.system.make_runtime import make_metrics
from latentmas_ray.system.serving.stand_ins import find_stand_ins
from latentmas_ray.system.setup import Setup
from latentmas_ray.system.team.run_models import team_of
from latentmas_ray.topology import AgentModel, Topology

MakeSink = Callable[[MetricSink | None], MetricSink | None]
MOST_BATCHES = 1024  # for the number of actors that work at the same time
TeamConfig = tuple[RunConfig, Topology]


class SharedActors:
    """The actors of a first topology. Agents of other topologies have stand-ins among its agents. Thread-safe."""

    def __init__(self, first: Setup, config: RunConfig, make_sink: MakeSink) -> None:
        """`first` is the setup of the topology that decides which actors there are."""
        self._first = first
        self._lock = threading.Lock()
        self._stand_ins: StandIns = {}  # of all agents so far: turns of earlier topologies may still run
        self._models: dict[tuple[str, str], AgentModel] = {}  # of the agents, by name and how they think
        self.live = LiveRuntime(
            lambda topology, num_batches: first.make_runtime(first.topology, MOST_BATCHES, stand_ins=self._stand_ins),
            lambda: make_sink(make_metrics(config)),
            config.memory_in_flight_bytes,
        )

    def stand_ins_for(self, teams: Sequence[TeamConfig]) -> StandIns:
        """Return the stand-ins of these teams' agents. Raises ConfigError for agents that the actors cannot serve, and
        for those that had another model before: turns of theirs may still run."""
        found = find_stand_ins((self._first.config, self._first.topology), teams)
        with self._lock:
            known = dict(self._models)
        for name, model in _models_of(teams).items():
            if known.setdefault(name, model) != model:
                agent, before = name[0], known[name].name
                expected = f"it has had the model {before}, not {model.name}; give it another name, or start again"
                raise ConfigError("topologies", agent, expected)
        return found

    def actor_of(self, agent: str, thinks: str) -> str:
        """Return the agent whose actors execute the turns of an agent that thinks so: itself, or its stand-in."""
        with self._lock:
            return self._stand_ins.get((agent, thinks), agent)

    def start(self, stand_ins: StandIns, teams: Sequence[TeamConfig]) -> RuntimeInfo:
        """Serve these teams, too, and start the actors unless they are there. Raises the errors of
        `Runtime.start`."""
        with self._lock:
            self._stand_ins = {**stand_ins, **self._stand_ins}
            self._models = {**_models_of(teams), **self._models}
            names = {agent.name for _, topology in teams for agent in topology.agents}
            self.live.add_agents(names, self._stand_ins)
        return self.live.start(self._first.topology, MOST_BATCHES)


def _models_of(teams: Sequence[TeamConfig]) -> dict[tuple[str, str], AgentModel]:
    return {
        (agent.name, agent.thinks): team_of(config, topology).by_agent[agent.name]
        for config, topology in teams
        for agent in topology.agents
    }
