"""Chooses, for each agent, whether its memory is sent as KV or as inputs from which readers recompute the KV."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from latentmas_ray.config import TransferMode
from latentmas_ray.engine.turn import SentAs
from latentmas_ray.scheduler.turns import TopologyIndex
from latentmas_ray.topology.team import Team
from latentmas_ray.units import format_seconds

_TOKENS = 1000  # the costs in log lines are for this number; both are proportional to it


@dataclass(frozen=True, kw_only=True)
class TransferCosts:
    """Costs that a runtime has measured between and on its actors."""

    bytes_per_second: Mapping[tuple[str, str], float]  # by (writer, reader); of the slowest link between their actors
    prefill_tokens_per_second: Mapping[str, float]  # by reader


@dataclass(frozen=True, kw_only=True)
class TransferChoice:
    """The choice for one agent and its costs: seconds for a thousand tokens and the slowest reader, None if not
    measured."""

    agent: str
    mode: SentAs
    kv_seconds: float | None = None
    recompute_seconds: float | None = None

    def __str__(self) -> str:
        if self.kv_seconds is None or self.recompute_seconds is None:
            return f"{self.agent} hands over {self.mode}"
        costs = f"kv {format_seconds(self.kv_seconds)}, recompute {format_seconds(self.recompute_seconds)}"
        return f"{self.agent} hands over {self.mode} ({costs} for {_TOKENS:,} tokens)"


def choose_transfers(
    mode: TransferMode,
    topology_index: TopologyIndex,
    costs: TransferCosts | None,
    *,
    bytes_per_token: int,
    translated: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, TransferChoice]:
    """Return the choice for each latent agent that runs. `auto` takes the faster mode by the measured costs, or KV if
    there are none. An agent whose readers all have another model (`translated`, by reader and writer) sends no KV,
    whatever the mode: its readers would not use it.

    KV takes bytes / bandwidth. Recompute inputs are negligible on the link and take tokens / prefill throughput at the
    reader (Theorem 3.4 of arXiv 2511.20639 counts the same forward pass). Readers work in parallel, so the slowest one
    counts.
    """
    agents = [agent.name for agent in topology_index.agents if agent.thinks == "latent"]
    readers = {
        agent: frozenset(one for one in topology_index.readers[agent] if agent not in (translated or {}).get(one, {}))
        for agent in agents
    }
    only_translated = [agent for agent in agents if topology_index.readers[agent] and not readers[agent]]
    chosen = {agent: TransferChoice(agent=agent, mode="recompute") for agent in only_translated}
    for agent in agents:
        if agent not in chosen and mode != "auto":
            chosen[agent] = TransferChoice(agent=agent, mode=mode)
        elif agent not in chosen:
            chosen[agent] = _cheaper(agent, readers[agent], costs, bytes_per_token)
    return {agent: chosen[agent] for agent in agents}


def translated_links(
    team: Team, topology_index: TopologyIndex, spec_of: Callable[[str], object]
) -> dict[str, dict[str, str]]:
    """Return, by reader, the agents whose memory it reads and that have another model, each with its model's name.

    Models of different names that have equal specs (`spec_of` an agent) are the same: these agents exchange KV.
    """
    found = {}
    for reader in topology_index.agents:
        foreign = team.foreign_to(topology_index.topology, reader.name)
        own = spec_of(reader.name)
        found[reader.name] = {
            writer: model
            for writer, model in foreign.items()
            if writer in topology_index.readers and (own is None or spec_of(writer) != own)
        }
    return found


def _cheaper(agent: str, readers: frozenset[str], costs: TransferCosts | None, bytes_per_token: int) -> TransferChoice:
    if costs is None or not readers:
        return TransferChoice(agent=agent, mode="kv")
    kv_seconds = max(_TOKENS * bytes_per_token / costs.bytes_per_second[agent, reader] for reader in readers)
    recompute_seconds = max(_TOKENS / costs.prefill_tokens_per_second[reader] for reader in readers)
    return TransferChoice(
        agent=agent,
        mode="kv" if kv_seconds <= recompute_seconds else "recompute",
        kv_seconds=kv_seconds,
        recompute_seconds=recompute_seconds,
    )
