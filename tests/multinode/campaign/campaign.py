"""Schedules one after another on one cluster, each compared with its undisturbed run."""

import hashlib
import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.multinode.campaign.log import Outcome, append_outcome
from tests.multinode.campaign.nodes import Nodes, NotHealedError
from tests.multinode.campaign.one_run import run_schedule
from tests.multinode.campaign.schedule import Schedule, Work, draw_schedule
from tests.multinode.runs import MODEL, local_rows, write_questions
from tests.ray.command_cases import COMMAND

QUIET_SECONDS = 300.0  # Ray takes half a minute to give a node up, and the machine may be busy
LATENT_STEPS = 6


class Campaign:
    """Runs seeds on nodes that it heals in between, and remembers undisturbed runs."""

    def __init__(self, nodes: Nodes, folder: Path, quiet_seconds: float = QUIET_SECONDS) -> None:
        """`folder` keeps the runs that do not end well. `quiet_seconds`: see `Watch`."""
        self._nodes = nodes
        self._folder = folder
        self._quiet_seconds = quiet_seconds

    def run(self, seed: int, log: Path) -> Outcome:
        """Run the schedule of a seed, say how it ended, and add that to the log.

        Raises NotHealedError if the cluster cannot be made whole for it: another cluster is needed then.
        """
        schedule = draw_schedule(seed)
        print(f"seed {seed}: {schedule}", flush=True)
        undisturbed = self._undisturbed(schedule.work)
        self._nodes.heal(schedule.workers)
        folder = self._folder / f"seed-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        command = [*self._command(schedule.work), *schedule.way.flags()]
        outcome = run_schedule(self._nodes, schedule, command, undisturbed, folder, self._quiet_seconds)
        outcome = self._look_for_leftovers(schedule, outcome)
        if outcome.verdict == "ok":
            shutil.rmtree(folder)
        append_outcome(log, outcome)
        kept = "" if outcome.verdict == "ok" else f", kept in {folder}: {outcome.why}"
        print(f"seed {seed}: {outcome.verdict} in {outcome.seconds:.0f} s{kept}", flush=True)
        return outcome

    def _look_for_leftovers(self, schedule: Schedule, outcome: Outcome) -> Outcome:
        """A run that is over leaves no actors; the nodes are whole afterwards."""
        try:
            self._nodes.heal(schedule.workers)
        except NotHealedError as error:
            if outcome.verdict == "ok":
                return replace(outcome, verdict="left behind", why=str(error))
        return outcome

    def _command(self, work: Work) -> list[str]:
        task = self._folder / f"{work.num_questions}-questions"
        if not task.exists():
            task.mkdir()
            write_questions(task, work.num_questions)
        evaluation = [str(COMMAND), "eval", "--task", str(task / "questions.jsonl"), *MODEL]
        return [*evaluation, "--latent-steps", str(LATENT_STEPS), *work.flags()]

    def _undisturbed(self, work: Work) -> list[dict[str, Any]]:
        """The rows of the run in one process, computed once."""
        command = self._command(work)
        name = hashlib.sha256(json.dumps([*work.flags(), str(work.num_questions)]).encode()).hexdigest()[:16]
        path = self._folder / f"undisturbed-{name}.json"
        if not path.exists():
            folder = self._folder / f"undisturbed-{name}"
            shutil.rmtree(folder, ignore_errors=True)
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                rows = local_rows(command, folder)
            shutil.rmtree(folder)
            path.write_text(json.dumps(rows))
        # Through JSON, as the rows that they are compared with.
        found: list[dict[str, Any]] = json.loads(path.read_text())
        return [row | {"transfers": [tuple(one) for one in row["transfers"]]} for row in found]
