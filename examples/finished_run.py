"""Evaluate into a folder, and read the folder back.

Prints:
    chain with topology sequential: 6 answers, 0 failures
    files: config.yaml, results.jsonl, summary.json, timeline.jsonl
"""

import tempfile
from pathlib import Path

from latentmas_ray import LatentMAS, load_run


def main() -> None:
    folder = Path(tempfile.mkdtemp()) / "run"
    with LatentMAS("tiny", runtime="local", latent_steps=5) as mas:
        mas.evaluate("chain", limit=6, output=str(folder))
    run = load_run(folder)
    print(
        f"{run.config.task} with topology {run.config.topology}: "
        f"{len(run.answers)} answers, {len(run.failures)} failures"
    )
    print("files:", ", ".join(sorted(path.name for path in folder.glob("[a-z]*"))))
    assert run.summary is not None  # it is None for a run that was broken off


if __name__ == "__main__":
    main()
