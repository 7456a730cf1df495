"""A traced question in the terminal: prompts, memory, thoughts through the logit lens, texts."""

from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable, Heading
from latentmas_ray.cli.render.text import printable, shorten
from latentmas_ray.cli.render.votes.row_votes import votes_view
from latentmas_ray.engine.diagnostics.trace import AgentTrace, Thought
from latentmas_ray.report.inspect import Inspection, describe_alarm
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.traces import Trace

_MAX_CHARS = 300  # of a prompt or a text, unless all of it is wanted
_MAX_ROW_CHARS = 60
_BAR_CELLS = 8
_NUM_TOKENS = 3  # of a thought's likeliest ones
_MIN_SHARE = 0.005
_VISIBLE = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥"})
_VERDICTS = {True: Text("right", style="green"), False: Text("wrong", style="red"), None: Text("not graded")}


def question_table(traced: Sequence[tuple[Answer, Trace]]) -> Table:
    """Return a table of the questions that can be inspected."""
    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("question", style="bold", overflow="fold")
    table.add_column("", no_wrap=True)
    table.add_column("thoughts", justify="right", no_wrap=True)
    table.add_column("alarms", overflow="fold")
    table.add_column("prediction", overflow="fold")
    table.add_column("gold", overflow="fold")
    for answer, trace in traced:
        table.add_row(
            Text(printable(answer.id)),
            _VERDICTS[answer.correct],
            str(sum(len(agent.thoughts) for agent in trace.agents.values())),
            Text(_alarm_kinds(trace), style="yellow"),
            Text(shorten(answer.prediction or "–", _MAX_ROW_CHARS)),
            Text(shorten(answer.gold or "–", _MAX_ROW_CHARS)),
        )
    return table


def inspection_view(inspection: Inspection, *, is_full: bool) -> Iterator[RenderableType]:
    """Yield the parts of the view, from the question to the answer."""
    answer = inspection.answer
    yield Text.assemble((f"{printable(answer.id)}  ", "bold"), _cut(answer.question, is_full))
    yield from agents_view(inspection.agents, is_full=is_full)
    yield ""
    yield from votes_view(answer)
    yield Heading("answer")
    yield Text(_cut(answer.answer, is_full))
    yield Text.assemble(
        ("prediction ", "dim"), printable(answer.prediction or "–"),
        ("  gold ", "dim"), printable(answer.gold or "–"), "  ", _VERDICTS[answer.correct],
    )  # fmt: skip


def agents_view(agents: Mapping[str, AgentTrace], *, is_full: bool = False) -> Iterator[RenderableType]:
    """Yield what each agent read, thought and wrote."""
    for name, agent in agents.items():
        yield ""
        yield Heading(name)
        yield from _agent(agent, is_full=is_full)


def thought_table(thoughts: Sequence[Thought]) -> Table:
    """Return a row per thought: its likeliest tokens, its entropy, and its position among the embeddings."""
    table = FittedTable(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("would say", overflow="fold")
    table.add_column("entropy", no_wrap=True)
    table.add_column("norm", justify="right", no_wrap=True)
    table.add_column("distance", justify="right", no_wrap=True)
    table.add_column("nearest", overflow="fold")
    most = max((thought.entropy for thought in thoughts), default=0.0)
    for step, thought in enumerate(thoughts):
        if not thought.is_finite:
            table.add_row(str(step), Text("not finite", style="red"), "", "", "", "")
            continue
        table.add_row(
            str(step),
            Text(_says(thought)),
            Text(f"{thought.entropy:5.2f} {_bar(thought.entropy, most)}" if thought.tokens else "    –"),
            f"{thought.norm:.4g}",
            f"{thought.distance:.3f}",
            Text(_visible(thought.nearest)),
        )
    return table


def _agent(agent: AgentTrace, *, is_full: bool) -> Iterator[RenderableType]:
    yield _labelled("prompt", Text(_cut(agent.prompt, is_full), style="dim"))
    if agent.reads:
        yield _labelled("read", _memory(agent))
    if agent.thoughts:
        yield _labelled("thoughts", thought_table(agent.thoughts))
    for alarm in agent.alarms:
        label, style = ("note", "dim") if alarm.note else ("alarm", "yellow")
        yield _labelled(label, Text(describe_alarm(alarm), style=style))
    if agent.text is not None:
        yield _labelled("wrote", Text(_cut(agent.text, is_full)))


def _memory(agent: AgentTrace) -> Table:
    """Return the segments that it read, and how much its output distribution changes without each."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    most = max(agent.effects.values(), default=0.0)
    for source in agent.reads:
        effect = agent.effects.get(source)
        told = "no effect that could be told" if effect is None else f"{effect:8.4f} nats {_bar(effect, most)}"
        table.add_row(Text(source), Text(told))
    return table


def _labelled(label: str, content: RenderableType) -> Table:
    grid = Table.grid(padding=(0, 1), expand=False)
    grid.add_column(width=8, style="cyan")
    grid.add_column(overflow="fold")
    grid.add_row(label, Padding(content, 0))
    return grid


def _says(thought: Thought) -> str:
    if not thought.tokens:
        return "nothing that is finite"
    shown = [(token, share) for token, share in thought.tokens[:_NUM_TOKENS] if share >= _MIN_SHARE]
    if not shown:  # no likely token
        return f"{_visible(thought.tokens[0][0])} <1%"
    return "  ".join(f"{_visible(token)} {share:.0%}" for token, share in shown)


def _bar(value: float, most: float) -> str:
    return "█" * round(_BAR_CELLS * value / most) if most > 0 else ""


def _visible(token: str) -> str:
    return printable(token.translate(_VISIBLE))


def _cut(text: str, is_full: bool) -> str:
    """Return the text; if it is long, only its start and its end, where a prompt has its question."""
    text = printable(text.strip())
    if is_full or len(text) <= _MAX_CHARS:
        return text
    return f"{text[: _MAX_CHARS // 2]} … {text[-_MAX_CHARS // 2 :]}"


def _alarm_kinds(trace: Trace) -> str:
    """Return the kinds of alarms, such as `norm, repetition`, each once."""
    alarms = [alarm for agent in trace.agents.values() for alarm in agent.alarms]
    return ", ".join(dict.fromkeys(alarm.kind for alarm in alarms if not alarm.note))
