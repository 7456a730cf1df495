"""The traces of a run: traces.jsonl, one line per question, and embeddings.json."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from latentmas_ray.engine.diagnostics.alarms import find_idle_memory
from latentmas_ray.engine.diagnostics.trace import AgentTrace, Alarm, EmbeddingMap
from latentmas_ray.errors import JournalError
from latentmas_ray.runs.folder import append_durably, encode_row, read_file, read_json, write_atomically

TRACES_NAME = "traces.jsonl"
EMBEDDINGS_NAME = "embeddings.json"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The traces of all agents on one question, in topological order."""

    id: str
    agents: Mapping[str, AgentTrace]
    embeddings: EmbeddingMap | None = field(default=None, compare=False)  # of the model; stored in embeddings.json

    def to_row(self) -> dict[str, Any]:
        """The object of one line of traces.jsonl."""
        return {"id": self.id, "agents": {name: agent.to_row() for name, agent in self.agents.items()}}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Trace":
        """The inverse of `to_row`. Raises KeyError, TypeError, ValueError or AttributeError for a row of another
        form."""
        if not isinstance(row["id"], str):
            raise TypeError("an id must be text")
        agents = {name: asdict(AgentTrace.from_row(agent)) for name, agent in row["agents"].items()}
        return cls(id=row["id"], agents=_agents().validate_python(agents))


@cache
def _agents() -> TypeAdapter[dict[str, AgentTrace]]:
    """Checks the content of files; made when the first is read, which actors never do."""
    return TypeAdapter(dict[str, AgentTrace])


def judge_memory(traces: Mapping[str, Trace]) -> dict[str, Trace]:
    """Return the traces of a run, by question, with alarms and notes about memory without effect.

    Whether such memory is broken, or was not needed for a question, only shows in all traced questions together. So
    these alarms are found again from the effects, whatever is stored.
    """
    found: dict[tuple[str, str], tuple[Alarm, ...]] = {}
    for reader in dict.fromkeys(name for trace in traces.values() for name in trace.agents):
        ids = [name for name, trace in traces.items() if reader in trace.agents]
        idle = find_idle_memory([traces[name].agents[reader].effects for name in ids])
        found |= {(name, reader): alarms for name, alarms in zip(ids, idle, strict=True)}
    return {
        name: replace(
            trace,
            agents={
                reader: replace(agent, alarms=(*_other_alarms(agent), *found[name, reader]))
                for reader, agent in trace.agents.items()
            },
        )
        for name, trace in traces.items()
    }


def _other_alarms(agent: AgentTrace) -> Iterator[Alarm]:
    return (alarm for alarm in agent.alarms if alarm.kind != "no-effect" or alarm.source not in agent.effects)


def read_traces(folder: Path) -> dict[str, Trace]:
    """Return the traces of a run by question id; empty if it has none. A truncated last line, as of a killed run, is
    ignored. Raises JournalError with `FILE:LINE` for any other line that is not a trace."""
    return {trace.id: trace for trace, _ in _read_lines(folder / TRACES_NAME)}


class TraceWriter:
    """Writes both files during a run. A trace is written before its answer, so a run that is killed between the two
    leaves a trace without an answer, which the next start removes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: set[str] = set()
        self.num_lost = 0  # traces of this start that the last `retain` did not find

    def retain(self, ids: Collection[str]) -> None:
        """Remove all traces but one for each of these questions, and sort them in this order. Raises JournalError for a
        line that is not a trace, and OSError."""
        path = self._folder / TRACES_NAME
        lines = {trace.id: line for trace, line in _read_lines(path)}
        self.num_lost = len(self._written - lines.keys())
        content = b"".join(lines[name] + b"\n" for name in ids if name in lines)
        if path.exists() and content != read_file(path):
            write_atomically(path, content)

    def write(self, traces: Sequence[Trace]) -> None:
        """Write traces, and the map of the embeddings, to disk before returning. Raises OSError."""
        path = self._folder / EMBEDDINGS_NAME
        embeddings = next((trace.embeddings for trace in traces if trace.embeddings is not None), None)
        if embeddings is not None and not path.exists():
            write_atomically(path, encode_row(embeddings.to_row()))
        if traces:
            append_durably(self._folder / TRACES_NAME, b"".join(encode_row(trace.to_row()) for trace in traces))
            self._written.update(trace.id for trace in traces)

    def remove(self) -> None:
        """Remove the traces of an earlier run. Raises OSError."""
        for name in (TRACES_NAME, EMBEDDINGS_NAME):
            (self._folder / name).unlink(missing_ok=True)


def _read_lines(path: Path) -> Iterator[tuple[Trace, bytes]]:
    """Yield every trace with its line. Raises JournalError with `FILE:LINE`."""
    lines = read_file(path).split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            # A thought that is not finite may have no number.
            yield Trace.from_row(read_json(line, allows_nan=True)), line
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            shown = line.decode(errors="replace")
            raise JournalError(f"{path}:{number}", shown, "it is not a trace of a run; remove the line") from None


def read_embeddings(folder: Path) -> EmbeddingMap | None:
    """Return the embedding map of the run's model; None if there is none. Raises JournalError for any other content."""
    path = folder / EMBEDDINGS_NAME
    if not path.exists():
        return None
    content = read_file(path)
    try:
        return EmbeddingMap.from_row(read_json(content, allows_nan=True))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise JournalError(str(path), path.name, "it is not the map of a model's embeddings; remove the file") from None
