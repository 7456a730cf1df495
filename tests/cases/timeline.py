"""Timelines of made-up runs, as a run would have recorded them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from latentmas_ray.runs.timeline import TIMELINE_NAME, RunTimeline, read_timeline

ZERO = 1_700_000_000.0  # wall-clock seconds
Rows = list[dict[str, Any]]


def turn(agent: str, questions: Sequence[str], *spans: tuple[str, float, float], **more: Any) -> dict[str, Any]:
    """A turn whose spans are in seconds after ZERO; it was submitted as it began and seen as it ended."""
    placed = [(phase, ZERO + begin, ZERO + end) for phase, begin, end in spans]
    asked = more.pop("question_spans", ())
    every = [span for one in asked for span in one]
    begins = [begin for _, begin, _ in (*spans, *every)]
    ends = [end for _, _, end in (*spans, *every)]
    return {
        "event": "turn",
        "agent": agent,
        "replica": f"{agent} 0",
        "nodes": ["near"],
        "questions": list(questions),
        "submitted_at": ZERO + min(begins),
        "seen_at": ZERO + max(ends),
        "spans": placed,
        "question_spans": [[(phase, ZERO + begin, ZERO + end) for phase, begin, end in one] for one in asked],
        **more,
    }


def read(source: str, **more: Any) -> dict[str, Any]:
    return {"source": source, "num_bytes": 2_000_000, "transport": "tcp", "link": "cross_node", **more}


def change(event: str, at: float, replica: str, **more: Any) -> dict[str, Any]:
    return {"event": event, "at": ZERO + at, "replica": replica, "agents": [replica.split()[0]], **more}


def start(at: float = 0.0) -> dict[str, Any]:
    return {"event": "start", "at": ZERO + at}


def pipelined(num_batches: int = 3) -> Rows:
    """Two agents, one batch after another; the writer reads what the thinker handed over. The thinker is lost once."""
    rows: Rows = [start()]
    for batch in range(num_batches):
        questions = [f"q{batch}a", f"q{batch}b"]
        begin = 2.0 * batch
        thinks = [
            ("prefill", begin, begin + 0.25),
            ("emit", begin + 0.25, begin + 0.3),
            ("think", begin + 0.3, begin + 1.8),
        ]
        rows.append(turn("thinker", questions, *thinks, ("emit", begin + 1.8, begin + 1.9)))
        writes = [
            ("absorb", begin + 2.0, begin + 2.1),
            ("prefill", begin + 2.1, begin + 2.2),
            ("decode", begin + 2.2, begin + 4.0),
        ]
        rows.append(turn("writer", questions, *writes, reads=[read("thinker")], nodes=["far"]))
        rows.append({"event": "answered", "at": ZERO + begin + 4.0, "question": questions[0], "seconds": 4.0})
    at = 2.0 * num_batches
    lost = {"agent": "thinker", "questions": ["q9"], "submitted_at": ZERO + at, "reason": "its actor died"}
    return [
        *rows,
        change("replica_lost", at + 0.5, "thinker 0", reason="its actor died"),
        {"event": "lost_turn", "at": ZERO + at + 0.6, "replica": "thinker 0", **lost},
        change("replica_ready", at + 1.5, "thinker 0"),
        {"event": "node_joined", "at": ZERO + at + 1.6, "node": "another"},
        {"event": "end", "at": ZERO + at + 3.0},
    ]


def written_timeline(folder: Path) -> RunTimeline:
    """The timeline that is in a folder."""
    found = read_timeline(folder)
    assert found is not None
    return found


def write_timeline_rows(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write the file into a run's folder."""
    (folder / TIMELINE_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def timeline_of(folder: Path, rows: Rows) -> RunTimeline:
    """The timeline of a run that recorded these rows."""
    return written_timeline(write_timeline_rows(folder, rows))


def overlapping(num_questions: int = 3) -> Rows:
    """Two turns of an agent that writes every question for itself, at the same time."""
    spans = [
        [("prefill", 0.1 * n, 0.2 + 0.1 * n), ("decode", 0.2 + 0.1 * n, 1.0 + 0.1 * n)] for n in range(num_questions)
    ]
    names = [f"q{n}" for n in range(num_questions)]
    later = [("prefill", 0.15, 0.3), ("decode", 0.3, 2.0)]
    return [
        start(),
        turn("writer", names, ("absorb", 0.0, 0.05), question_spans=spans),
        turn("writer", ["r0", "r1"], question_spans=[later, []]),
    ]
