"""What a driver needs to know of a run."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from latentmas_ray.config import MAX_NEW_TOKENS, GuardName, RunConfig, TransferMode
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.topology.prompts import RenderedPrompts


@dataclass(frozen=True, kw_only=True)
class DriverSettings:
    """How the turns are made, how much may be in flight, and how often a question is tried."""

    latent_steps: int = 40  # of agents that do not set their own
    sampling: Sampling = field(default_factory=Sampling)
    transfer: TransferMode = "kv"
    memory_limit_bytes: int | None = None  # None: what the runtime offers
    max_batches_in_flight: int | None = None  # None: enough to keep every replica of every agent busy
    replicas: int = 1  # of the agent that has the most
    max_attempts: int = 2  # per question, the first one included
    traced: frozenset[str] = frozenset()  # the questions of which a trace is kept
    prompts: RenderedPrompts = field(default_factory=RenderedPrompts, repr=False, compare=False)
    guard: GuardName = "off"  # what is done about thoughts with an alarm
    max_losses: int = 3  # of a batch: actors that died of its turns, memory that was gone; fewer of later attempts

    @classmethod
    def from_config(
        cls, config: RunConfig, traced: Iterable[str] = (), prompts: RenderedPrompts | None = None
    ) -> "DriverSettings":
        """The driver's part of a run's configuration; `traced` are the ids of the questions to be traced, `prompts`
        what is rendered of the run's prompts."""
        return cls(
            latent_steps=config.latent_steps,
            sampling=Sampling(
                temperature=config.temperature,
                top_p=config.top_p,
                max_new_tokens=config.max_new_tokens or MAX_NEW_TOKENS,
                seed=config.seed,
            ),
            transfer=config.transfer,
            memory_limit_bytes=config.memory_in_flight_bytes,
            replicas=config.max_replicas,
            traced=frozenset(traced),
            prompts=prompts or RenderedPrompts(),
            guard=config.guard,
            # Colocated agents take turns: a second batch in their actor would only push the first out of its cache.
            max_batches_in_flight=config.max_replicas if config.placement == "colocate" else None,
        )

    def batches_in_flight(self, num_agents: int) -> int:
        """How many batches may be in flight: one for each actor, and one more so that the first never waits."""
        return self.max_batches_in_flight or num_agents * self.replicas + 1
