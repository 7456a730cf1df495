"""Measure the embedded model, or any other, on the built-in tasks: `python jobs/measure_tiny.py FOLDER`.

Runs every method, topology and control, then latent over the numbers of latent steps with realignment on and off, all
in one process. FOLDER gets `figures.jsonl` (one run a line; those that are there are not run again) and
`latent_steps.png`.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from latentmas_ray import LatentMAS

TASKS = ("notes", "chain")
STEPS = (0, 1, 2, 5, 10, 20, 40, 80)
CONTROLS = ("deranged", "prompt-only", "latent-only", "none")
FORMS = ("sequential", "hierarchical")
SWEEPS = tuple(f"{task}-{form}" for task, form in product(TASKS, FORMS))
KEPT = ("accuracy", "accuracy_interval", "output_tokens_per_question", "seconds")


def plan(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is run: the fields of each configuration."""
    for task in given.tasks:
        yield {"task": task, "method": "single", "limit": given.limit}
        for form in FORMS:
            fields = {"task": task, "topology": form, "limit": given.limit}
            latent = {**fields, "method": "latent", "latent_steps": given.latent_steps}
            yield {**latent, "memory": "matched"}
            yield {**fields, "method": "text"}  # next to it, so that their seconds can be compared
            for memory in CONTROLS:
                yield {**latent, "memory": memory}
    for name, realign, steps in product(given.sweep, (True, False), STEPS):
        task, form = name.split("-")
        sweep = {"realign": realign, "latent_steps": steps, "limit": given.sweep_limit}
        yield {"task": task, "topology": form, "method": "latent", **sweep}


def measure(fields: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """One run, as a row of figures."""
    fixed = {"model": given.model, "batch_size": given.batch_size, "dtype": given.dtype}
    with LatentMAS(**fixed, **fields, temperature=0.0, max_new_tokens=160, runtime="local") as system:
        summary = system.evaluate().to_json()
    return {**fields, **{name: summary[name] for name in KEPT}, "num_questions": summary["num_questions"]}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over latent steps, one panel a task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for task, panel in zip(TASKS, panels, strict=True):
        for form in FORMS:
            for realign, style in ((True, "-"), (False, "--")):
                same = {"task": task, "topology": form, "realign": realign}
                points = sorted(
                    (row["latent_steps"], 100 * row["accuracy"]) for row in rows if same.items() <= row.items()
                )
                if not points:
                    continue
                label = f"{form}, realignment {'on' if realign else 'off'}"
                panel.plot([x for x, _ in points], [y for _, y in points], style, marker="o", markersize=3, label=label)
        panel.set(title=task, xlabel="latent steps", ylabel="accuracy, %", ylim=(0, 102))
        panel.set_xscale("symlog", linthresh=1, base=2)
        panel.set_xlim(-0.2, 100)
        panel.set_xticks(STEPS, [str(steps) for steps in STEPS])
        panel.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--sweep-limit", type=int, default=1000, help="questions of each number of latent steps")
    parser.add_argument("--sweep", nargs="*", choices=SWEEPS, default=SWEEPS, help="where latent steps are varied")
    parser.add_argument("--latent-steps", type=int, default=5, help="of the controls")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / "figures.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for fields in plan(given):
        if any(fields.items() <= row.items() for row in rows):
            continue
        rows.append(measure(fields, given))
        print(json.dumps(rows[-1]), flush=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plot(rows, given.folder / "latent_steps.png")


main()
