"""How an actor of text agents is set up, and which classes a replica and its actors have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from latentmas_ray.actors.agent_actor import GROUPS, AgentActor
from latentmas_ray.actors.rank_actor import RANK_GROUPS, RankActor
from latentmas_ray.actors.replicas.replica import Replica
from latentmas_ray.actors.replicas.sharded import ShardedReplica
from latentmas_ray.actors.replicas.single import SingleReplica
from latentmas_ray.actors.text.text_actor import TextActor, text_groups
from latentmas_ray.actors.text.text_rank_actor import TextRankActor
from latentmas_ray.actors.text.text_replica import ShardedTextReplica, SingleTextReplica
from latentmas_ray.writing.text_runner import TextRunner


@dataclass(frozen=True, kw_only=True)
class TextSetup:
    """How an actor of text agents loads its model, and how many questions it writes at the same time."""

    make_runner: Callable[..., TextRunner]  # if the model is divided it is called with `ranks=…`
    max_running: int
    engine: Literal["transformers", "vllm"] = "transformers"


def kind_of_replica(
    text: TextSetup | None, *, is_sharded: bool
) -> tuple[type[Replica], type[AgentActor], dict[str, int]]:
    """Return the classes of a replica and of its actors, and the actors' concurrency groups."""
    if text is not None:
        groups = text_groups(text.max_running)
        return (ShardedTextReplica, TextRankActor, groups) if is_sharded else (SingleTextReplica, TextActor, groups)
    return (ShardedReplica, RankActor, RANK_GROUPS) if is_sharded else (SingleReplica, AgentActor, GROUPS)
