"""Values that do nothing in a run: which fields, in which setting, and why. A run tells each in one line.

`UNUSED` is the whole table. A field that it does not name has an effect in every setting, or is refused where it has
none (`config.run`).
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from latentmas_ray.config.latent_steps import StepsSetting, most_steps
from latentmas_ray.config.parts import PlacementConfig
from latentmas_ray.config.run import RunConfig
from latentmas_ray.errors import UnusedSettingWarning

_STACK_LEVEL = 5  # of the caller of `LatentMAS`, whose line Python shows


@dataclass(frozen=True, kw_only=True)
class RunSetting:
    """What decides which fields have an effect."""

    config: RunConfig
    num_agents: int = 2  # of the configured topology
    own_steps: tuple[StepsSetting | None, ...] = (None,)  # `latent_steps` of each of its latent agents; None: the run's
    own_shares: tuple[float | None, ...] = (None,)  # `keep` of each of its latent agents; None: the run's
    own_engines: tuple[str | None, ...] = (None,)  # `engine` of each agent that writes text; None: the run's
    several_answer: bool = False  # agents of the topology that runs: the seed decides ties
    from_memory: bool = False  # the last agent alone answers, from the memory of an earlier run

    @property
    def hands_over(self) -> bool:
        """Whether agents hand over memory in this run."""
        return self.config.method == "latent" and self.config.memory != "none" and not self.from_memory

    @property
    def steps(self) -> tuple[int, ...]:
        """The most latent steps of each latent agent."""
        return tuple(most_steps(self.config.latent_steps if own is None else own) for own in self.own_steps)

    @property
    def keeps_all(self) -> bool:
        """Whether every latent agent hands over all positions of its prompt."""
        shares = (self.config.keep if own is None else own for own in self.own_shares)
        return self.config.keep_by != "window" and all(share == 1.0 for share in shares)

    @property
    def engines(self) -> tuple[str, ...]:
        """The engine of each agent that writes text."""
        return tuple(own or self.config.engine for own in self.own_engines)


@dataclass(frozen=True, kw_only=True)
class UnusedFields:
    """Fields without an effect where `when` holds. `cause` is the field that decides it, or text."""

    fields: tuple[str, ...]
    when: Callable[[RunSetting], bool]
    cause: str
    why: str


_KEEP = ("keep", "keep_by", "keep_layers")
_MEMORY = ("transport", "transfer", "codec", *_KEEP, "overlap", "memory_in_flight", "translation")
_THOUGHTS = ("latent_steps", "thoughts")
# All parts of the placement are about actors, but for the runtime itself, `threads`, and `tp`, which is refused.
_ACTORS = tuple(name for name in PlacementConfig.model_fields if name not in ("runtime", "tp", "threads"))

UNUSED = (
    UnusedFields(
        fields=(*_ACTORS, "memory_in_flight", "overlap", "decode_batch", "sampler"),
        when=lambda run: run.config.runtime == "local",
        cause="runtime",
        why="one process runs all agents, one after another",
    ),
    UnusedFields(
        fields=("hints",),
        when=lambda run: run.config.abstractions is None,
        cause="abstractions",
        why="no hints are asked for",
    ),
    UnusedFields(
        fields=("hints",),
        when=lambda run: run.config.memory == "none",
        cause="memory",
        why="the answering agent runs alone",
    ),
    UnusedFields(
        fields=("hardware",),
        when=lambda run: run.config.replicas != "auto",
        cause="replicas",
        why="only auto predicts what a layout reaches",
    ),
    UnusedFields(
        fields=("transfer",),
        when=lambda run: run.config.runtime == "local" and run.config.transfer == "auto",
        cause="runtime",
        why="in one process KV is always the cheaper way",
    ),
    UnusedFields(
        fields=(*_MEMORY, *_THOUGHTS),
        when=lambda run: run.config.method == "single",
        cause="method",
        why="one agent alone hands over no memory",
    ),
    UnusedFields(
        fields=(*_MEMORY, *_THOUGHTS),
        when=lambda run: run.config.method == "text",
        cause="method",
        why="the agents hand over text",
    ),
    UnusedFields(
        fields=("topology", "models"),
        when=lambda run: run.config.method == "single" and run.num_agents > 1,
        cause="method",
        why="a topology of several agents is not used",
    ),
    UnusedFields(
        fields=("placement",),
        when=lambda run: (
            run.config.method == "single" and run.config.most_replicas == 1 and run.config.replicas != "auto"
        ),
        cause="method",
        why="there is one actor to place",
    ),
    UnusedFields(
        fields=(*_MEMORY, *_THOUGHTS, "guard"),
        when=lambda run: run.config.memory == "none",
        cause="memory",
        why="the answering agent runs alone",
    ),
    UnusedFields(
        fields=(*_MEMORY, *_THOUGHTS, "guard"),
        when=lambda run: run.from_memory,
        cause="from_memory",
        why="the answering agent runs alone, on memory that was made before",
    ),
    UnusedFields(
        fields=("latent_steps",),
        when=lambda run: run.hands_over and bool(run.own_steps) and None not in run.own_steps,
        cause="topology",
        why="each of its latent agents has latent_steps of its own",
    ),
    UnusedFields(
        fields=("translation",),
        when=lambda run: run.hands_over and not run.config.models,
        cause="models",
        why="all agents have one model",
    ),
    UnusedFields(
        fields=("thoughts", "translation"),
        when=lambda run: run.hands_over and not any(run.steps),
        cause="latent_steps",
        why="there are no thoughts",
    ),
    UnusedFields(
        fields=("overlap",),
        when=lambda run: run.hands_over and not any(run.steps),
        cause="latent_steps",
        why="there is no thinking to overlap with",
    ),
    UnusedFields(
        fields=("overlap",),
        when=lambda run: run.config.memory in ("latent-only", "latent-only+sink"),
        cause="memory",
        why="nothing is final before the last thought",
    ),
    UnusedFields(
        fields=("overlap",),
        when=lambda run: run.config.guard in ("drop", "text"),
        cause="guard",
        why="nothing is final before all thoughts are checked",
    ),
    UnusedFields(
        fields=("overlap",),
        when=lambda run: run.config.placement == "colocate",
        cause="placement",
        why="colocated agents work one after another",
    ),
    UnusedFields(
        fields=_KEEP,
        when=lambda run: run.config.memory in ("latent-only", "latent-only+sink"),
        cause="memory",
        why="no position of a prompt is handed over",
    ),
    UnusedFields(
        fields=("keep",),
        when=lambda run: run.hands_over and bool(run.own_shares) and None not in run.own_shares,
        cause="topology",
        why="each of its latent agents has keep of its own",
    ),
    UnusedFields(
        fields=("keep_by", "keep_layers"),
        when=lambda run: run.hands_over and run.keeps_all,
        cause="keep",
        why="all positions are handed over",
    ),
    UnusedFields(
        fields=("keep_layers",),
        when=lambda run: run.config.keep_by == "random",
        cause="keep_by",
        why="chance chooses once for all layers",
    ),
    UnusedFields(
        fields=("keep_layers",),
        when=lambda run: run.config.keep_by == "window",
        cause="keep_by",
        why="all layers keep what is seen through the largest window",
    ),
    UnusedFields(
        fields=("overlap",),
        when=lambda run: run.config.keep_by == "thoughts" and not run.keeps_all,
        cause="keep_by",
        why="nothing is final before the last thought",
    ),
    UnusedFields(
        fields=("rebalance",),
        when=lambda run: run.config.placement == "colocate",
        cause="placement",
        why="colocated agents share their replicas",
    ),
    UnusedFields(
        fields=("codec",),
        when=lambda run: run.config.transfer == "recompute",
        cause="transfer",
        why="no KV is sent that could be shortened",
    ),
    UnusedFields(
        fields=("decode_batch", "sampler"),
        when=lambda run: run.config.placement == "colocate",
        cause="placement",
        why="colocated agents work one after another, on transformers",
    ),
    UnusedFields(
        fields=("engine",),
        when=lambda run: bool(run.own_engines) and None not in run.own_engines,
        cause="topology",
        why="each of its agents that write text has an engine of its own",
    ),
    UnusedFields(
        fields=("sampler",),
        when=lambda run: set(run.engines) == {"transformers"},
        cause="engine",
        why="transformers always draws from each question's own random stream",
    ),
    UnusedFields(
        fields=("transfer",),
        when=lambda run: (
            run.hands_over and run.config.transfer == "auto" and run.config.engine == "vllm" and "vllm" in run.engines
        ),
        cause="engine",
        why="KV is sent everywhere, as costs are compared only where all agents have transformers",
    ),
    UnusedFields(
        fields=("top_p", "sampler"),
        when=lambda run: run.config.temperature == 0,
        cause="temperature",
        why="decoding is greedy",
    ),
    UnusedFields(
        fields=("seed",),
        when=lambda run: run.config.temperature == 0 and not run.several_answer,
        cause="temperature",
        why="decoding is greedy",
    ),
)


def unused_settings(run: RunSetting, given: Collection[str]) -> Iterator[UnusedSettingWarning]:
    """Yield a warning for each of the fields `given` that does nothing in this run."""
    told: set[str] = set()
    for rule in UNUSED:
        if not rule.when(run):
            continue
        for name in rule.fields:
            value = getattr(run.config, name)
            if name in given and name not in told and value is not None:
                told.add(name)
                yield UnusedSettingWarning(name, value, rule.cause, getattr(run.config, rule.cause, None), rule.why)


def unused_by_choice(run: RunSetting, engines: Collection[str]) -> Iterator[UnusedSettingWarning]:
    """Yield a warning for each value other than the default that does nothing because the agents got `engines`, one for
    each that writes text, and about which `run`, from before that was known, says nothing."""
    fields = type(run.config).model_fields
    given = {name for name in ("sampler", "transfer") if getattr(run.config, name) != fields[name].default}
    engine = "vllm" if "vllm" in engines else "transformers"
    chosen = replace(run, config=run.config.model_copy(update={"engine": engine}), own_engines=tuple(engines))
    told = {warning.field for warning in unused_settings(run, given)}
    yield from (warning for warning in unused_settings(chosen, given) if warning.field not in told)


def warn_of_unused(run: RunSetting, given: Collection[str]) -> None:
    """Warn of each field that does nothing in this run."""
    for warning in unused_settings(run, given):
        warnings.warn(warning, stacklevel=_STACK_LEVEL)
