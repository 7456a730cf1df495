"""The cells of the table: what is run, once, on one loaded model; each has a folder and is not run again.

Where latent agents read one another every cell is a run of its own, with a run folder. Where they do not, one
computation of their thoughts serves all cells (`shared_cells`).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from latentmas_ray import LatentMAS
from latentmas_ray.bench.thoughts.figures import find_convergence
from latentmas_ray.bench.thoughts.sample import collect_chains
from latentmas_ray.config import MemoryName, RunConfig, make_config
from latentmas_ray.config.thoughts import parse_thoughts
from latentmas_ray.errors import ConfigError
from latentmas_ray.models import LanguageModel, load_model
from latentmas_ray.report.published import file_stem
from latentmas_ray.tasks import load_questions

CONVERGENCE_QUESTIONS = 8
_NO_THOUGHTS = "realign"  # without steps, and without memory, all rules are alike


@dataclass(frozen=True, kw_only=True)
class ThoughtBenchSettings:
    """What is measured on one model. Raises ConfigError for a rule, a control or a number that is not valid."""

    model: str
    task: str
    topology: str
    rules: tuple[str, ...]
    steps: tuple[int, ...]
    controls: tuple[str, ...]
    limit: int
    batch_size: int
    max_new_tokens: int | None
    dtype: str
    output: Path
    block: int | None = None  # questions that all cells answer before the next ones; None: all questions
    label: str = field(init=False)  # the model's name in the table

    def __post_init__(self) -> None:
        for rule, memory in ((rule, memory) for rule in self.rules for memory in self.controls):
            self.config(rule, memory)
        object.__setattr__(self, "rules", tuple(dict.fromkeys(str(parse_thoughts(rule)) for rule in self.rules)))
        object.__setattr__(self, "label", f"{file_stem(self.model)} {file_stem(self.task)} {file_stem(self.topology)}")
        if "matched" not in self.controls:
            raise ConfigError("controls", ",".join(self.controls), "it must have matched, which the others control")
        if self.block is not None and (self.block < 2 or self.limit % self.block):
            raise ConfigError("block", self.block, f"it must be at least 2 and divide --limit, which is {self.limit}")

    @property
    def folder(self) -> Path:
        """Where the cells of this model, task and topology are."""
        return self.output / self.label.replace(" ", "_")

    @property
    def identity(self) -> dict[str, object]:
        """What a cell must have been run with to be read; with blocks, whatever the number of questions."""
        names = ("model", "task", "topology", "batch_size", "max_new_tokens", "dtype")
        size = {"limit": self.limit} if self.block is None else {"block": self.block}
        return {**{name: getattr(self, name) for name in names}, **size}

    @property
    def blocks(self) -> list[range]:
        """The questions that are answered together, by their places in the task."""
        size = self.block or self.limit
        return [range(start, start + size) for start in range(0, self.limit, size)]

    def config(self, rule: str, memory: str) -> RunConfig:
        """The configuration of all cells with this rule and control."""
        return make_config(
            {
                "model": self.model,
                "task": self.task,
                "topology": self.topology,
                "thoughts": rule,
                "memory": memory,
                "limit": self.limit,
                "batch_size": self.batch_size,
                "max_new_tokens": self.max_new_tokens,
                "dtype": self.dtype,
                "temperature": 0.0,
                "runtime": "local",
            }
        )


@dataclass(frozen=True, order=True)
class ThoughtCell:
    """One run. Those without steps, or without memory, have the rule that stands for all."""

    rule: str
    memory: MemoryName
    steps: int

    def folder(self, settings: ThoughtBenchSettings) -> Path:
        """Its run folder."""
        return settings.folder / self.rule.replace(":", "_").replace(",", "_") / self.memory / f"steps-{self.steps}"


def plan_cells(settings: ThoughtBenchSettings) -> Iterator[ThoughtCell]:
    """All cells, those of one rule and control one after another: they share the actors."""
    for memory in settings.controls:
        if memory == "none":
            yield ThoughtCell(_NO_THOUGHTS, "none", 0)
            continue
        if 0 in settings.steps and not memory.startswith("latent-only"):
            yield ThoughtCell(_NO_THOUGHTS, memory, 0)  # type: ignore[arg-type]
        for rule in settings.rules:
            for steps in sorted(set(settings.steps) - {0}):
                yield ThoughtCell(rule, memory, steps)  # type: ignore[arg-type]


def run_cells(settings: ThoughtBenchSettings, say: Callable[[str], None]) -> None:
    """Run all cells that are not complete, and the thoughts whose convergence is drawn. One model is loaded.

    Raises InputError kinds, and RunError kinds if a run is aborted: what is complete then stays.
    """
    lm: LanguageModel | None = None
    with ExitStack() as stack:
        system: LatentMAS | None = None
        before: tuple[str, str] | None = None
        for cell in plan_cells(settings):
            lm = lm or load_model(settings.model, dtype=settings.dtype)
            if system is None or before != (cell.rule, cell.memory):
                stack.close()
                before = cell.rule, cell.memory
                system = stack.enter_context(_system(settings.config(cell.rule, cell.memory), lm))
            folder = cell.folder(settings)
            steps = None if cell.memory == "none" else cell.steps
            found = system.evaluate(output=str(folder), resume=True, latent_steps=steps)
            right = "no gold" if found.accuracy is None else f"{100 * found.accuracy:.1f} %"
            say(f"{settings.label}: {cell.rule}, {cell.memory}, {cell.steps} steps: {right}")
    for rule in settings.rules:
        lm = _measure_convergence(settings, rule, lm)


def answers_file(settings: ThoughtBenchSettings, cell: ThoughtCell, block: range) -> Path:
    """Where the answers of a cell to a block of questions are, if it has no run folder."""
    name = "answers" if settings.block is None else f"answers-{block.start}-{block.stop}"
    return cell.folder(settings) / f"{name}.json"


def num_converging(settings: ThoughtBenchSettings) -> int:
    """The questions whose thoughts' convergence is drawn: those of the first block, if every rule's thoughts were
    computed once."""
    first = settings.blocks[0]
    is_shared = answers_file(settings, next(iter(plan_cells(settings))), first).exists()
    return len(first) if is_shared else min(settings.limit, CONVERGENCE_QUESTIONS)


def convergence_file(settings: ThoughtBenchSettings, rule: str) -> Path:
    """Where the convergence of a rule's thoughts is."""
    return settings.folder / rule.replace(":", "_").replace(",", "_") / "convergence.json"


def _measure_convergence(settings: ThoughtBenchSettings, rule: str, lm: LanguageModel | None) -> LanguageModel | None:
    path = convergence_file(settings, rule)
    steps = max(settings.steps)
    if steps < 2 or (path.exists() and len(json.loads(path.read_text())) >= steps - 1):
        return lm
    lm = lm or load_model(settings.model, dtype=settings.dtype)
    config = settings.config(rule, "matched").model_copy(update={"latent_steps": steps})
    questions = load_questions(settings.task, min(settings.limit, CONVERGENCE_QUESTIONS))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(find_convergence(collect_chains(config, lm, questions))) + "\n")
    return lm


def _system(config: RunConfig, lm: LanguageModel) -> LatentMAS:
    left_out = ("model", "revision", "device")
    fields = {name: value for name, value in config.model_dump().items() if name not in left_out}
    fields = {name: value for name, value in fields.items() if value != RunConfig.model_fields[name].default}
    return LatentMAS(lm.model, tokenizer=lm.chat.tokenizer, **fields)
