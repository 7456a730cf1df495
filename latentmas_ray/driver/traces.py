"""The traces of a run: traces.jsonl, a line a question, and embeddings.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentmas_ray.engine.trace import AgentTrace, EmbeddingMap
from latentmas_ray.errors import JournalError

TRACES_NAME = "traces.jsonl"
EMBEDDINGS_NAME = "embeddings.json"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What every agent did on one question, in the order of the topology."""

    id: str
    agents: Mapping[str, AgentTrace]

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
    path = folder / TRACES_NAME
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    traces = {}
    for number, line in enumerate(lines, start=1):
        try:
            trace = Trace.from_row(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            shown = line.decode(errors="replace")
            raise JournalError(f"{path}:{number}", shown, "it is not a trace of a run; remove the line") from None
        traces[trace.id] = trace
    return traces


def read_embeddings(folder: Path) -> EmbeddingMap | None:
    """The plane of the run's model, None if the run kept none. Raises JournalError if the file is something else."""
    path = folder / EMBEDDINGS_NAME
    if not path.exists():
        return None
    try:
        return EmbeddingMap.from_row(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, IndexError):
        raise JournalError(str(path), path.name, "it is not the map of a model's embeddings; remove the file") from None
