"""The traces of a run: traces.jsonl, a line a question, and embeddings.json."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentmas_ray.runs.folder import append_durably, encode_row, write_atomically
from latentmas_ray.engine.diagnostics.trace import AgentTrace, EmbeddingMap
from latentmas_ray.errors import JournalError

TRACES_NAME = "traces.jsonl"
EMBEDDINGS_NAME = "embeddings.json"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What every agent did on one question, in the order of the topology."""

    id: str
    agents: Mapping[str, AgentTrace]
    embeddings: EmbeddingMap | None = field(default=None, compare=False)  # of the model; it has a file of its own

    def to_row(self) -> dict[str, Any]:
        """The object of one line of traces.jsonl."""
        return {"id": self.id, "agents": {name: agent.to_row() for name, agent in self.agents.items()}}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Trace":
        """The inverse of `to_row`. Raises KeyError, TypeError or AttributeError for a row of another form."""
        return cls(id=row["id"], agents={name: AgentTrace.from_row(agent) for name, agent in row["agents"].items()})


def read_traces(folder: Path) -> dict[str, Trace]:
    """The traces of a finished run by question, none if it kept none. A last line that a killed run left unfinished is
    passed over. Raises JournalError with `FILE:LINE` for another line that is no trace."""
    return {trace.id: trace for trace, _ in _read_lines(folder / TRACES_NAME)}


class TraceWriter:
    """Writes the two files while a run goes on. A trace is on disk before its answer is; so a run that was killed
    between the two leaves a trace without an answer, which the next start drops."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, ids: Collection[str]) -> None:
        """Keep the traces of these questions only, one of each, in this order. Raises JournalError for a line that is
        none, OSError."""
        path = self._folder / TRACES_NAME
        if not path.exists():
            return
        lines = {trace.id: line for trace, line in _read_lines(path)}
        content = b"".join(lines[name] + b"\n" for name in ids if name in lines)
        if content != path.read_bytes():
            write_atomically(path, content)

    def write(self, traces: Sequence[Trace]) -> None:
        """When this returns they are on disk, and so is the map of the embeddings. Raises OSError."""
        path = self._folder / EMBEDDINGS_NAME
        embeddings = next((trace.embeddings for trace in traces if trace.embeddings is not None), None)
        if embeddings is not None and not path.exists():
            write_atomically(path, encode_row(embeddings.to_row()))
        if traces:
            append_durably(self._folder / TRACES_NAME, b"".join(encode_row(trace.to_row()) for trace in traces))

    def remove(self) -> None:
        """Nothing of an earlier run is left. Raises OSError."""
        for name in (TRACES_NAME, EMBEDDINGS_NAME):
            (self._folder / name).unlink(missing_ok=True)


def _read_lines(path: Path) -> Iterator[tuple[Trace, bytes]]:
    """Every trace with its line. Raises JournalError with `FILE:LINE`."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            yield Trace.from_row(json.loads(line)), line
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            shown = line.decode(errors="replace")
            raise JournalError(f"{path}:{number}", shown, "it is not a trace of a run; remove the line") from None


def read_embeddings(folder: Path) -> EmbeddingMap | None:
    """The plane of the run's model, None if the run kept none. Raises JournalError if the file is something else."""
    path = folder / EMBEDDINGS_NAME
    if not path.exists():
        return None
    try:
        return EmbeddingMap.from_row(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, IndexError):
        raise JournalError(str(path), path.name, "it is not the map of a model's embeddings; remove the file") from None
