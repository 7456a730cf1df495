"""Flags of single commands that have no effect with others. Those of a run's configuration are in `config.unused`.

`UNUSED_FLAGS` is the whole table; each command passes the values of its flags to `tell_unused`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import typer

from latentmas_ray.cli.options import flag_of
from latentmas_ray.config import EMBEDDED_MODELS
from latentmas_ray.errors import UnusedSettingWarning


@dataclass(frozen=True, kw_only=True)
class UnusedFlags:
    """Flags without an effect where `when` holds, and the words for that."""

    fields: tuple[str, ...]
    when: Callable[[Mapping[str, Any]], bool]
    why: str


UNUSED_FLAGS: Mapping[str, tuple[UnusedFlags, ...]] = {
    "ask": (
        UnusedFlags(
            fields=("trace",),
            when=lambda flags: flags["as_json"],
            why="with --json: the JSON object has no traces",
        ),
        UnusedFlags(
            fields=("anyway",),
            when=lambda flags: flags["model"] not in EMBEDDED_MODELS,
            why=f"with --model: only {', '.join(EMBEDDED_MODELS)} refuse questions",
        ),
        UnusedFlags(
            fields=("anyway",),
            when=lambda flags: flags["example"] is not None,
            why="with --example: the question is one that the model was trained for",
        ),
    ),
    "compare": (
        UnusedFlags(
            fields=("answers",),
            when=lambda flags: flags["as_json"],
            why="with --json: the JSON object has the questions in any case",
        ),
    ),
    "grade": (
        UnusedFlags(
            fields=("overwrite",),
            when=lambda flags: flags["output"] is None,
            why="without --output: nothing is written",
        ),
    ),
    "inspect": (
        UnusedFlags(
            fields=("agent", "full"),
            when=lambda flags: flags["question"] is None,
            why="without --question: only the list of questions is shown",
        ),
    ),
    "plan": (
        UnusedFlags(
            fields=("compare",),
            when=lambda flags: flags["replicas"] != "auto",
            why="without --replicas auto: there is one plan",
        ),
        UnusedFlags(
            fields=("text_tokens",),
            when=lambda flags: flags["replicas"] != "auto" and flags["hardware"] is None,
            why="without --replicas auto or --hardware: no speed is predicted",
        ),
        UnusedFlags(
            fields=("gpu_memory",),
            when=lambda flags: not flags["num_gpus"],
            why="on nodes without GPUs: add --gpus-per-node",
        ),
    ),
    "topologies": (
        UnusedFlags(
            fields=("as_json",),
            when=lambda flags: flags["name"] is not None,
            why="with a NAME: one topology is shown as YAML",
        ),
    ),
    "vote": (
        UnusedFlags(
            fields=("rule",),
            when=lambda flags: flags["output"] is None,
            why="without --output: all rules are shown",
        ),
        UnusedFlags(
            fields=("calibrate", "output", "seed"),
            when=lambda flags: flags["simulate"],
            why="with --simulate: it has no questions",
        ),
        UnusedFlags(
            fields=("accuracies",),
            when=lambda flags: not flags["simulate"],
            why="without --simulate: they are those of the runs",
        ),
    ),
    "bench transfer": (
        UnusedFlags(
            fields=("concurrent",),
            when=lambda flags: flags["pairs"] is None,
            why="without --pairs: one segment moves at a time",
        ),
        UnusedFlags(
            fields=("prompt_tokens", "latent_steps"),
            when=lambda flags: flags["pairs"] is not None,
            why="with --pairs: no agents hand over",
        ),
        UnusedFlags(
            fields=("prompt_tokens", "latent_steps"),
            when=lambda flags: not flags["end_to_end"] and flags["pairs"] is None,
            why="with --no-end-to-end: only the two agents that hand over have prompts and thoughts",
        ),
    ),
    "bench serve": (
        UnusedFlags(
            fields=("model", "topology", "latent_steps"),
            when=lambda flags: flags["url"] is not None,
            why="with --url: that server has its own",
        ),
        UnusedFlags(
            fields=("seed",),
            when=lambda flags: not flags["rates"],
            why="without --rates: only the arrivals of an open loop are drawn",
        ),
    ),
    "bench answer": (
        UnusedFlags(
            fields=(
                "questions",
                "batch_size",
                "prompt_tokens",
                "min_new_tokens",
                "max_new_tokens",
                "repeats",
                "threads",
            ),
            when=lambda flags: flags["engines"] == (),
            why="with --engines none: the methods have the questions of tasks",
        ),
        UnusedFlags(
            fields=(
                "answer_engine",
                "tasks",
                "limit",
                "concurrency",
                "topology",
                "latent_steps",
                "runtime",
                "address",
            ),
            when=lambda flags: flags["methods"] == (),
            why="with --methods none: engines alone are measured",
        ),
        UnusedFlags(
            fields=("address",),
            when=lambda flags: flags["runtime"] == "local",
            why="with --runtime local: there is no Ray",
        ),
    ),
}


def tell_unused(command: str, flags: Mapping[str, Any]) -> None:
    """Hold a note for each flag of `flags` that was given and has no effect with the others.

    `flags` has the values by name; None and False were not given.
    """
    for rule in UNUSED_FLAGS[command]:
        for name in rule.fields:
            value = flags.get(name)
            if value is not None and value is not False and rule.when(flags):
                NOTES.hold(f"{with_value(name, value)} does nothing {rule.why}")


class HeldNotes:
    """Notes that wait until the command's input has turned out right: an error about it is one line alone."""

    def __init__(self) -> None:
        self._held: list[str] = []

    def hold(self, line: str) -> None:
        """Keep a line for `release`."""
        self._held.append(line)

    def release(self) -> None:
        """Write the lines to stderr: the run starts, or the command is done."""
        for line in self._held:
            typer.echo(f"note: {line}", err=True)
        self.drop()

    def drop(self) -> None:
        """Forget the lines."""
        self._held.clear()


NOTES = HeldNotes()


def describe_unused(warning: UnusedSettingWarning) -> str:
    """Return the words of the warning with flags in place of fields."""
    cause = flag_of(warning.cause)
    if warning.cause_value is not None:
        cause = with_value(warning.cause, warning.cause_value)
    return f"{with_value(warning.field, warning.value)} does nothing with {cause}: {warning.why}"


def with_value(field: str, value: object) -> str:
    """Return a flag as it is typed: `--replicas 2`, `--no-overlap`."""
    if field == "as_json":
        return "--json"
    if isinstance(value, bool):
        return flag_of(field) if value else f"--no-{flag_of(field)[2:]}"
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    if isinstance(value, Mapping):
        value = ",".join(f"{name}={count}" for name, count in value.items())
    return f"{flag_of(field)} {value}"
