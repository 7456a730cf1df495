"""Results as tables on stdout, readable at 80 columns and in a file."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from latentmas_ray.cli.text import format_accuracy, format_figure, format_number, printable, shorten
from latentmas_ray.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from latentmas_ray.driver.results import AgentUse, Answer, Summary, Transfer

MAX_TEXT_CHARS = 600


def results_console() -> Console:
    """Where results go: stdout."""
    return Console(highlight=False)


def summary_table(summary: "Summary") -> RenderableType:
    """All figures of a run, then what each agent spent on a question."""
    tokens = (
        f"{format_number(summary.prompt_tokens_per_question)} prompt, "
        f"{format_number(summary.latent_steps_per_question)} latent, "
        f"{format_number(summary.output_tokens_per_question)} output"
    )
    questions = str(summary.num_questions) + (f", {summary.num_failed} failed" if summary.num_failed else "")
    rows = {
        "method": summary.method,
        "topology": summary.topology,
        "model": summary.model,
        "questions": questions,
        "accuracy": format_accuracy(summary.accuracy, summary.accuracy_interval),
        "tokens per question": tokens,
        "time": f"{format_seconds(summary.seconds)}, {summary.questions_per_second:.3g} questions/s",
        "memory handed over": f"{format_bytes(summary.memory_bytes_per_question)} per question",
        "memory moved": f"{format_bytes(summary.moved_bytes)} in the whole run, "
        f"{format_seconds(summary.exposed_seconds)} of a hand-over exposed",
    }
    if summary.memory != "matched":
        rows["memory"] = summary.memory
    if summary.codec != "none":
        rows["codec"] = f"{summary.codec}: KV arrives with a relative error of up to {summary.relative_error:.1%}"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return Group("", table, *_agent_tables(summary.agents))


def demo_table(summaries: Sequence["Summary"]) -> Table:
    """The methods, and controls of them, side by side."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("method", style="bold", no_wrap=True)
    for title in ("accuracy", "output tokens\nper question", "latent steps\nper question", "time", "memory\nmoved"):
        table.add_column(title, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(
            summary.method if summary.memory == "matched" else summary.memory,
            format_accuracy(summary.accuracy),
            format_number(summary.output_tokens_per_question),
            format_number(summary.latent_steps_per_question),
            format_seconds(summary.seconds),
            format_bytes(summary.moved_bytes),
        )
    return table


def trace_tree(answer: "Answer") -> Tree:
    """What each agent did for one question, in the order of their turns."""
    tree = Tree(Text(f"{format_seconds(answer.seconds)} from question to answer", style="bold"))
    for name, use in answer.agents.items():
        branch = tree.add(Text(name, style="bold"))
        for transfer in answer.transfers:
            if transfer.reader == name:
                branch.add(Text(f"read {transfer.source}'s memory: {_transfer(transfer)}"))
        branch.add(Text(_tokens(use)))
        branch.add(Text(_phases(use)))
        if use.memory_bytes:
            branch.add(Text(f"handed over {format_bytes(use.memory_bytes)}"))
        if use.text is not None:
            branch.add(Text(shorten(use.text, MAX_TEXT_CHARS), style="italic"))
    return tree


def print_answer(console: Console, answer: "Answer") -> None:
    """The answer's text; as it is in a file, without control characters on a terminal."""
    text = printable(answer.answer) if console.is_terminal else answer.answer
    console.out(text, highlight=False)


def _agent_tables(agents: Mapping[str, Mapping[str, float]]) -> Iterator[Table]:
    """One line an agent: what it processed, then where its time went; as one table that is too wide for 80 columns."""
    names = dict.fromkeys(name for figures in agents.values() for name in figures)
    # A figure that is zero for everybody tells nothing.
    shown = [name for name in names if any(figures.get(name) for figures in agents.values())]
    for is_time, title in ((False, "per question"), (True, "time per batch")):
        columns = [name for name in shown if name.endswith("_seconds") is is_time]
        if not columns:
            continue
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
        table.add_column(title, style="bold", overflow="fold")
        for name in columns:
            table.add_column(_heading(name), justify="right", no_wrap=True)
        for agent, figures in agents.items():
            table.add_row(Text(agent), *(format_figure(name, figures.get(name, 0)) for name in columns))
        yield table


def _heading(name: str) -> str:
    return name.removesuffix("_seconds").removesuffix("_bytes").replace("_", " ")


def _transfer(transfer: "Transfer") -> str:
    parts = [format_bytes(transfer.num_bytes), transfer.transport, format_seconds(transfer.seconds)]
    if transfer.exposed_seconds:
        parts.append(f"{format_seconds(transfer.exposed_seconds)} exposed")
    if transfer.handover == "recipe":
        parts.append("as a recipe")
    if transfer.codec != "none":
        parts.append(f"{transfer.codec}, off by {transfer.relative_error:.2%}")
    return ", ".join(parts)


def _tokens(use: "AgentUse") -> str:
    counts = [f"{format_number(use.prompt_tokens)} prompt tokens"]
    if use.latent_steps:
        counts.append(f"{format_number(use.latent_steps)} latent steps")
    if use.output_tokens:
        counts.append(f"{format_number(use.output_tokens)} output tokens")
    return ", ".join(counts)


def _phases(use: "AgentUse") -> str:
    return ", ".join(f"{phase} {format_seconds(seconds)}" for phase, seconds in use.seconds.items() if seconds)
