"""Results as tables on stdout, readable at 80 columns and in a file."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from latentmas_ray.cli.render.agent_tables import agent_tables, hand_over_table
from latentmas_ray.cli.render.control_tables import adoption_text, hint_rows, questions_text, unit_of
from latentmas_ray.cli.render.convergence import convergence_rows
from latentmas_ray.cli.render.cut_off import cut_off_figures, cut_off_note
from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.cli.render.text import printable, shorten
from latentmas_ray.cli.render.votes.row_votes import vote_rows, votes_view
from latentmas_ray.runs.controls.names import HOW_TO_GET
from latentmas_ray.units import format_accuracy, format_bytes, format_number, format_rate, format_seconds, format_spread

if TYPE_CHECKING:
    from latentmas_ray.runs.multi_seed import SeedsSummary
    from latentmas_ray.runs.results import AgentUse, Answer, Summary, Transfer

MAX_TEXT_CHARS = 600


def results_console(width: int | None = None) -> Console:
    """Return the console of results: stdout, `width` columns wide (default: its own width)."""
    return Console(highlight=False, width=width)


def summary_table(summary: "Summary") -> RenderableType:
    """Return all figures of a run, then the cost of each agent and each hand-over."""
    rows = {
        "method": summary.method,
        "topology": summary.topology,
        "model": summary.model_names,
        "questions": questions_text(summary, summary.hints),
        "accuracy": format_accuracy(summary.accuracy, summary.accuracy_interval),
        **dict(vote_rows([summary.votes])),
        f"tokens per {unit_of(summary.hints)}": _tokens_a_question(summary),
        **dict(_time_rows(summary)),
        "memory handed over": f"{format_bytes(summary.memory_bytes_per_question)} per {unit_of(summary.hints)}",
        "memory moved": _moved(summary),
        **dict(convergence_rows(summary)),
    }
    if summary.memory != "matched":
        rows["memory"] = summary.memory
    elif summary.method == "latent":
        rows["gains"] = f"not measured: {HOW_TO_GET}"
    if summary.adoption is not None:
        rows["wrong fact"] = adoption_text(summary.adoption)
    if summary.hints is not None:
        rows |= dict(hint_rows(summary.hints))
    rows |= dict(_remarks([summary]))
    return Group("", named_rows(rows), *agent_tables(summary.agents), *hand_over_table(summary.hand_overs))


def seeds_table(summary: "SeedsSummary") -> RenderableType:
    """Return the figures over all seeds, then those of each seed."""
    hints = next(iter(summary.runs.values())).hints
    rows = {
        "method": summary.method,
        "topology": summary.topology,
        "model": summary.model_names,
        "memory": summary.memory,
        "questions": questions_text(summary, hints),
        "accuracy over seeds": format_spread(summary.accuracy, summary.accuracy_half_width),
        "over questions": format_accuracy(summary.accuracy, summary.question_interval),
        **dict(vote_rows([run.votes for run in summary.runs.values()])),
        f"tokens per {unit_of(hints)}": _tokens_a_question(summary),
        "time": _speed(summary.seconds, summary.questions_per_second),
        **dict(_remarks([*summary.runs.values()])),
    }
    if summary.adoption is not None:
        rows["wrong fact"] = adoption_text(summary.adoption)
    seeds = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    for title in ("seed", "accuracy", "output tokens", "time", "questions/s"):
        seeds.add_column(title, justify="right", no_wrap=True)
    for seed, run in summary.runs.items():
        seeds.add_row(
            str(seed),
            format_accuracy(run.accuracy, run.accuracy_interval),
            format_number(run.output_tokens_per_question),
            format_seconds(run.seconds),
            format_rate(run.questions_per_second),
        )
    return Group("", named_rows(rows), seeds)


def named_rows(rows: Mapping[str, str]) -> Table:
    """Return a table of names and values without lines."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def demo_table(summaries: Sequence["Summary"]) -> Table:
    """Return a table that compares the methods and their controls."""
    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
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
    """Return what each agent did for one question, in the order of their turns."""
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
    for part in votes_view(answer):
        tree.add(part)
    return tree


def print_answer(console: Console, answer: "Answer") -> None:
    """Print the answer's text: unchanged to a file, without control characters to a terminal."""
    text = printable(answer.answer) if console.is_terminal else answer.answer
    console.out(text, highlight=False)


def _moved(summary: "Summary") -> str:
    """Return the bytes of the whole run, and of the time that one reader's hand-overs take the exposed part."""
    moved = f"{format_bytes(summary.moved_bytes)} in the whole run"
    num_readers = len({one.reader for one in summary.hand_overs})
    if not num_readers:
        return moved
    whole, exposed = (
        sum(seconds) / num_readers
        for seconds in zip(*((one.transfer_seconds, one.exposed_seconds) for one in summary.hand_overs), strict=True)
    )
    return f"{moved}; {format_seconds(whole)} for one reader, {format_seconds(exposed)} of them exposed"


def _speed(seconds: float, questions_per_second: float) -> str:
    return f"{format_seconds(seconds)}, {format_rate(questions_per_second)} questions/s"


def _time_rows(summary: "Summary") -> Iterator[tuple[str, str]]:
    yield "time", _speed(summary.seconds, summary.questions_per_second)
    if summary.seconds_after_warm_up is not None and summary.questions_per_second_after_warm_up is not None:
        yield "after warm-up", _speed(summary.seconds_after_warm_up, summary.questions_per_second_after_warm_up)
    if summary.layout_speed is not None:
        yield "layout", f"{summary.layout_speed.layout}: {summary.layout_speed.describe()}"


_WHOSE = {"own": "own notes", "other": "notes of the other question", "both": "both", "none": "none"}


def _remarks(runs: Sequence["Summary"]) -> Iterator[tuple[str, str]]:
    """Yield remarks on the figures of a run, or of one run per seed."""
    if num_resumed := sum(run.num_resumed or 0 for run in runs):
        yield "before this start", f"{num_resumed} questions, which these times leave out"
    if numbers_from := sum((Counter(run.numbers_from) for run in runs), Counter()):
        told = ", ".join(f"{whose} {numbers_from[source]}" for source, whose in _WHOSE.items() if numbers_from[source])
        yield "numbers from", f"{told}, of {numbers_from.total()} answers"
    if runs[0].codec != "none":
        error = max(run.relative_error for run in runs)
        yield "codec", f"{runs[0].codec}: KV arrives with a relative error of up to {error:.1%}"
    if any(run.evicted_bytes_per_question for run in runs):
        yield "kept", _kept(runs)
    if figures := cut_off_figures(runs):
        yield "cut off", figures
    if num_alarmed := sum(run.num_alarmed for run in runs):
        by_agent = sum((Counter(run.alarms) for run in runs), Counter())
        named = ", ".join(f"{name} {count}" for name, count in by_agent.items())
        yield "guard", f"alarms in {num_alarmed} of {sum(run.num_questions for run in runs)} questions: {named}"


def _kept(runs: Sequence["Summary"]) -> str:
    """Return what an eviction dropped: of recompute inputs the readers compute all KV, and drop the same."""
    num = sum(run.num_questions - run.num_failed for run in runs)
    evicted, sent = (
        sum(getattr(run, name) * (run.num_questions - run.num_failed) for run in runs) / num
        for name in ("evicted_bytes_per_question", "memory_bytes_per_question")
    )
    of = "" if runs[0].keep == 1.0 else f"{runs[0].keep:g} of the prompts' positions, "
    dropped = f"{of}chosen by {runs[0].keep_by}: {format_bytes(round(evicted))} of KV a question dropped"
    return f"{dropped}, {format_bytes(round(sent))} handed over"


def _tokens_a_question(summary: "Summary | SeedsSummary") -> str:
    return (
        f"{format_number(summary.prompt_tokens_per_question)} prompt, "
        f"{format_number(summary.latent_steps_per_question)} latent, "
        f"{format_number(summary.output_tokens_per_question)} output"
    )


def _transfer(transfer: "Transfer") -> str:
    parts = [format_bytes(transfer.num_bytes), transfer.transport, format_seconds(transfer.seconds)]
    if transfer.exposed_seconds:
        parts.append(f"{format_seconds(transfer.exposed_seconds)} of them exposed")
    if transfer.mode == "recompute":
        parts.append("recomputed here")
    if transfer.mode == "translated":
        parts.append("translated and recomputed here")
    if transfer.codec != "none":
        parts.append(f"{transfer.codec}, off by {transfer.relative_error:.2%}")
    return ", ".join(parts)


def _tokens(use: "AgentUse") -> str:
    counts = [f"{format_number(use.prompt_tokens)} prompt tokens"]
    if use.latent_steps:
        counts.append(f"{format_number(use.latent_steps)} latent steps")
    if use.output_tokens:
        counts.append(f"{format_number(use.output_tokens)} output tokens")
    if note := cut_off_note(use):
        counts.append(note)
    return ", ".join(counts)


def _phases(use: "AgentUse") -> str:
    return ", ".join(f"{phase} {format_seconds(seconds)}" for phase, seconds in use.seconds.items() if seconds)
