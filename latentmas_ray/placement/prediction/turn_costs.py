"""Predicted seconds of each agent's turn, per question: FLOPs over peak, and bytes of weights and KV over bandwidth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from latentmas_ray.config import most_steps
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.link_speeds import LinkSpeeds
from latentmas_ray.placement.memory_estimate import FORWARD_TOKENS, MemoryEstimate, Workload, memory_estimates
from latentmas_ray.placement.model_dims import ModelDims
from latentmas_ray.placement.prediction.hardware import Hardware
from latentmas_ray.topology.agent import Topology

Limit = Literal["compute", "memory bandwidth"]


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """The part of its hardware's peaks that an engine is assumed to reach; 1.0 gives the limits themselves."""

    flops: float = 0.5
    bandwidth: float = 0.7


LIMITS = Efficiency(flops=1.0, bandwidth=1.0)


@dataclass(frozen=True, kw_only=True)
class PhaseCost:
    """The seconds that a replica spends on one question in one phase, and which limit of the hardware sets them."""

    seconds: float = 0.0
    limit: Limit = "memory bandwidth"


@dataclass(frozen=True, kw_only=True)
class TurnCost:
    """The seconds that a replica of `agent` spends on one question: a batch's seconds over its questions."""

    agent: str
    prefill: PhaseCost
    think: PhaseCost
    decode: PhaseCost

    @property
    def seconds(self) -> float:
        return self.prefill.seconds + self.think.seconds + self.decode.seconds

    @property
    def slowest(self) -> tuple[str, PhaseCost]:
        """The phase that takes longest, and its cost."""
        phases = {"prefill": self.prefill, "think": self.think, "decode": self.decode}
        return max(phases.items(), key=lambda item: item[1].seconds)


def mean_cost(costs: Sequence[tuple[TurnCost, int]]) -> TurnCost:
    """Return the mean of an agent's costs on so many devices each; what limits a phase is that of most devices."""
    total = sum(count for _, count in costs)
    most = max(costs, key=lambda item: item[1])[0]

    def mean(phase: str) -> PhaseCost:
        seconds = sum(getattr(cost, phase).seconds * count for cost, count in costs) / total
        return PhaseCost(seconds=seconds, limit=getattr(most, phase).limit)

    return TurnCost(agent=most.agent, prefill=mean("prefill"), think=mean("think"), decode=mean("decode"))


@dataclass(frozen=True, kw_only=True)
class StepModel:
    """A model divided over `tp` devices, and what one forward of it takes.

    Weights are read once for each forward and KV once for each row, the operations are 2 for each parameter and token
    and 4·L·H·D for each pair of a query and a key (Kaplan et al., arXiv 2001.08361, table 1; Pope et al.,
    arXiv 2211.05102, section 2). A forward takes the larger of both times. The sums of `tp` ranks, two for each layer,
    move 2·(tp − 1)/tp of the activations over the link between them (ring all-reduce).
    """

    model: ModelDims
    hardware: Hardware
    tp: int = 1
    efficiency: Efficiency = LIMITS
    links: LinkSpeeds | None = None  # None: those of the hardware

    def __post_init__(self) -> None:
        """Raise ConfigError for hardware without a peak for the model's dtype: figures from a file may lack some."""
        if (dtype := self.model.dtype) not in self.hardware.peak_flops:
            expected = f"its peak_flops have no {dtype}, which the model's weights have: add it, or use another dtype"
            raise ConfigError("hardware", self.hardware.name, expected)

    def step(self, rows: int, context: float, *, reads_vocabulary: bool) -> PhaseCost:
        """Return the cost of one step of one token in each of `rows` rows, which have `context` tokens in their cache.

        A latent step has no vocabulary projection, but for thoughts that are mixed from the words it predicts.
        """
        model = self.model
        parameters = model.shared_out_parameters + (model.vocab_size * model.hidden_size if reads_vocabulary else 0)
        num_bytes = parameters * model.itemsize + rows * (context * model.bytes_per_token + model.state_bytes)
        return self._cost(rows * (2 * parameters + self._per_key * context), num_bytes, rows)

    def prefill(self, rows: int, tokens: int, context: int) -> PhaseCost:
        """Return the cost of `tokens` new tokens in each of `rows` rows after `context` tokens, in forwards of
        FORWARD_TOKENS."""
        model = self.model
        operations = 2 * model.shared_out_parameters + self._per_key * (context + tokens / 2)
        num_forwards = ceil(rows * tokens / FORWARD_TOKENS)
        kv = rows * model.memory_bytes(context + tokens)
        num_bytes = num_forwards * model.shared_out_parameters * model.itemsize + kv
        return self._cost(rows * tokens * operations, num_bytes, rows * tokens)

    @property
    def _per_key(self) -> int:
        return 4 * self.model.num_layers * self.model.num_heads * self.model.head_dim

    def _cost(self, operations: float, num_bytes: float, tokens: int) -> PhaseCost:
        peak = self.hardware.peak_flops[self.model.dtype] * self.efficiency.flops
        bandwidth = self.hardware.bytes_per_second * self.efficiency.bandwidth
        computing, reading = operations / peak / self.tp, num_bytes / bandwidth / self.tp
        summed = tokens * self.model.hidden_size * self.model.itemsize * 2 * (self.tp - 1) / self.tp
        speeds = self.links or self.hardware.link_speeds()
        link = speeds.shared_memory if self.hardware.cores else speeds.nvlink or speeds.pcie
        summing = 2 * self.model.num_layers * summed / link
        return PhaseCost(
            seconds=max(computing, reading) + summing, limit="compute" if computing > reading else "memory bandwidth"
        )


def turn_costs(
    topology: Topology,
    expected: Workload,
    written_at_once: Mapping[str, int],
    device: StepModel,
    *,
    are_alike: Callable[[str, str], bool] = lambda writer, reader: True,
) -> dict[str, TurnCost]:
    """Return the cost of each agent's turn, in topological order.

    `expected`: its `max_new_tokens` are those that a text is expected to have, not its limit. `written_at_once`: for
    agents that write question by question, how many questions at the same time, all of which are expected to be there.
    `are_alike`: whether two agents have the same model; memory of another model is computed again, like a prompt.
    """
    estimates = memory_estimates(topology, expected, written_at_once)
    steps = {
        agent.name: expected.latent_steps if agent.latent_steps is None else most_steps(agent.latent_steps)
        for agent in topology.agents
        if agent.thinks == "latent"
    }
    return {
        one.agent: _turn_cost(
            one,
            steps.get(one.agent),
            expected,
            device,
            num_translated=sum(tokens for source, tokens in one.reads if not are_alike(source, one.agent)),
        )
        for one in estimates
    }


def _turn_cost(
    one: MemoryEstimate, steps: int | None, expected: Workload, device: StepModel, *, num_translated: int
) -> TurnCost:
    """`steps`: of an agent that thinks latently; None: it writes text. `num_translated`: tokens of its memory that it
    computes again."""
    count, rows = (expected.max_new_tokens if steps is None else steps), one.num_rows
    prompt = one.own_tokens - count
    projects = steps is None or expected.thoughts_read_vocabulary
    step = device.step(one.cache_rows, one.read_tokens + prompt + count / 2, reads_vocabulary=projects)
    phases = {
        "prefill": device.prefill(rows, prompt + num_translated, one.read_tokens - num_translated),
        "think": PhaseCost() if steps is None else PhaseCost(seconds=count * step.seconds, limit=step.limit),
        "decode": PhaseCost() if steps is not None else PhaseCost(seconds=count * step.seconds, limit=step.limit),
    }
    by_question = {name: PhaseCost(seconds=cost.seconds / rows, limit=cost.limit) for name, cost in phases.items()}
    return TurnCost(agent=one.agent, **by_question)
