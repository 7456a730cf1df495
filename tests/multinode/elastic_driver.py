"""A run of stand-ins that follows the cluster, for `test_elastic.py`: its turns wait, so that it lasts until the test
has seen what it waits for, and no longer.

python -m tests.multinode.elastic_driver ADDRESS FOLDER NUM_QUESTIONS SECONDS
"""

import json
import logging
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from latentmas_ray.actors.elastic.follow import Growth
from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.run_events import ClusterEvent, RunEvent, TurnFinished, TurnRepeated
from latentmas_ray.transport import pick_transport
from tests.cases.scheduler import agent, topology
from tests.ray.actor_cases import actors_of, drive, questions_that_wait
from tests.ray.stand_ins import StandIn

SEEN_NAME = "seen"  # the file of the test


def wait_until_seen(folder: Path, seconds: float, _: TurnRequest) -> None:
    """Take the time of a turn, as long as the test still waits for something."""
    if not (folder / SEEN_NAME).exists():
        time.sleep(seconds)


class EventFile:
    """An observer that writes what happens, one line for each turn and each change of the cluster."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_event(self, event: RunEvent) -> None:
        if isinstance(event, TurnFinished | TurnRepeated):
            self._write(event, nodes=list(event.place.nodes), submitted_at=event.place.submitted_at)
        elif isinstance(event, ClusterEvent):
            self._write(event, **asdict(event))

    def _write(self, event: RunEvent, **more: object) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"event": type(event).__name__, "seen_at": time.time(), **more}) + "\n")


def main(address: str, folder: Path, num_questions: int, seconds: float) -> None:
    pair = topology(agent("planner"), agent("judger", "planner", thinks="text"))
    with actors_of(
        pair,
        partial(StandIn, folder, [partial(wait_until_seen, folder, seconds)]),
        address=address,
        transport=partial(pick_transport, "auto", "none"),
        growth=Growth({"planner": None, "judger": None}),
    ) as started:
        questions = questions_that_wait(num_questions, 0.0)
        results = drive(*started, pair, questions, observer=EventFile(folder / "events.jsonl"))
    texts = {name: one.answer for name, one in results.items() if isinstance(one, Answer)}
    (folder / "answers.json").write_text(json.dumps(texts))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
