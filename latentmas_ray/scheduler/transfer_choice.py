"""Whether an agent's memory travels as KV or as the inputs from which its readers recompute it."""

from collections.abc import Mapping
from dataclasses import dataclass

from latentmas_ray.config import TransferMode
from latentmas_ray.engine.turn import Handover
from latentmas_ray.scheduler.turns import TopologyIndex
from latentmas_ray.units import format_seconds

_TOKENS = 1000  # for which costs are told; both grow in proportion


@dataclass(frozen=True, kw_only=True)
class TransferCosts:
    """What a runtime has measured where it runs."""

    bytes_per_second: Mapping[tuple[str, str], float]  # by (source, reader): of the slowest link between their actors
    prefill_tokens_per_second: Mapping[str, float]  # by reader


@dataclass(frozen=True, kw_only=True)
class TransferChoice:
    """The decision for one agent, and what it rests on; seconds are those of a thousand tokens and the slowest reader,
    None where nothing was measured."""

    agent: str
    handover: Handover
    kv_seconds: float | None = None
    recipe_seconds: float | None = None

    def __str__(self) -> str:
        if self.kv_seconds is None or self.recipe_seconds is None:
            return f"{self.agent} hands over {self.handover}"
        costs = f"kv {format_seconds(self.kv_seconds)}, recompute {format_seconds(self.recipe_seconds)}"
        return f"{self.agent} hands over {self.handover} ({costs} for {_TOKENS:,} tokens)"


def choose_transfers(
    mode: TransferMode, route: TopologyIndex, costs: TransferCosts | None, *, bytes_per_token: int
) -> dict[str, TransferChoice]:
    """The choice for each latent agent that works. `auto` takes the faster by the measured costs, KV without any.

    KV takes bytes / bandwidth; recompute inputs are hardly anything on the link and take tokens / prefill throughput
    at the reader (Theorem 3.4 of arXiv 2511.20639 counts the same forward). Every reader does this at the same time as
    the others, so the slowest one counts.
    """
    agents = [agent.name for agent in route.agents if agent.thinks == "latent"]
    if mode != "auto":
        return {agent: TransferChoice(agent=agent, handover=mode) for agent in agents}
    return {agent: _cheaper(agent, route.readers[agent], costs, bytes_per_token) for agent in agents}


def _cheaper(agent: str, readers: frozenset[str], costs: TransferCosts | None, bytes_per_token: int) -> TransferChoice:
    if costs is None or not readers:
        return TransferChoice(agent=agent, handover="kv")
    kv_seconds = max(_TOKENS * bytes_per_token / costs.bytes_per_second[agent, reader] for reader in readers)
    recipe_seconds = max(_TOKENS / costs.prefill_tokens_per_second[reader] for reader in readers)
    return TransferChoice(
        agent=agent,
        handover="kv" if kv_seconds <= recipe_seconds else "recompute",
        kv_seconds=kv_seconds,
        recipe_seconds=recipe_seconds,
    )
