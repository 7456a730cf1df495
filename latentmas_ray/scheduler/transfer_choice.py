"""Chooses, for each agent, whether its memory is sent as KV or as inputs from which readers recompute the KV."""

from collections.abc import Mapping
from dataclasses import dataclass

from latentmas_ray.config import TransferMode
from latentmas_ray.engine.turn import SentAs
from latentmas_ray.scheduler.turns import TopologyIndex
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
    mode: TransferMode, topology_index: TopologyIndex, costs: TransferCosts | None, *, bytes_per_token: int
) -> dict[str, TransferChoice]:
    """Return the choice for each latent agent that runs. `auto` takes the faster mode by the measured costs, or KV if
    there are none.

    KV takes bytes / bandwidth. Recompute inputs are negligible on the link and take tokens / prefill throughput at the
    reader (Theorem 3.4 of arXiv 2511.20639 counts the same forward pass). Readers work in parallel, so the slowest one
    counts.
    """
    agents = [agent.name for agent in topology_index.agents if agent.thinks == "latent"]
    if mode != "auto":
        return {agent: TransferChoice(agent=agent, mode=mode) for agent in agents}
    return {agent: _cheaper(agent, topology_index.readers[agent], costs, bytes_per_token) for agent in agents}


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
