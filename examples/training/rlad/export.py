"""Write the policies and questions of a study: `python -m examples.training.rlad.export FOLDER OUT`.

OUT gets `warm-1/hinter`, `warm-1/solver`, `rlad-1/…` and so on for each seed, which are model folders, `machine.jsonl`
and `team.yaml`, and the commands are printed that judge a pair with `latentmas eval`.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from examples.training.rlad.judge import TEAM
from examples.training.rlad.policy import SHAPES, save_policy
from examples.training.rlad.study import TRAININGS, parted
from examples.training.rlad.task.machine import machine_questions
from examples.training.rlad.task.prompts import POLICIES
from examples.training.studies.folder import StudyFolder, unpack
from latentmas_ray.cli.errors import EXIT_DONE, exit_code_of
from latentmas_ray.paths import expand_home

_NUM_QUESTIONS = 1000


def export(folder: Path, out: Path) -> list[Path]:
    """Write everything that is there, and return the folders of pairs. Raises ConfigError for another folder."""
    study = StudyFolder(folder, "rlad", lock=False)
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dict(question.record)) + "\n" for question in machine_questions(_NUM_QUESTIONS)]
    (out / "machine.jsonl").write_text("".join(lines), encoding="utf-8")
    shutil.copy(TEAM, out / TEAM.name)
    pairs = []
    for training in TRAININGS:
        for seed in sorted({row.seed for row in study.rows.values()}):
            cells = [f"warm-{role}-{seed}" for role in POLICIES] if training == "warm" else [f"{training}-{seed}"]
            if any(cell not in study.rows for cell in cells):
                continue
            found = [unpack(study.weights(cell)) for cell in cells]
            policies = dict(zip(POLICIES, found, strict=True)) if training == "warm" else parted(found[0])
            pair = out / f"{training}-{seed}"
            for role, weights in policies.items():
                save_policy(pair / role, SHAPES[role], weights)
            pairs.append(pair)
    return pairs


def command_of(pair: Path) -> str:
    """Return the command that judges a pair with hints as text, greedily."""
    out = pair.parent
    return (
        f"latentmas eval --task {out}/machine.jsonl --topology {out}/{TEAM.name} --model {pair}/hinter "
        f"--models solver={pair}/solver --method text --abstractions 1 --temperature 0 --max-new-tokens 24 "
        "--dtype float32 --runtime local"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.training.rlad.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="of the study")
    parser.add_argument("out", type=Path, help="gets the policies")
    given = parser.parse_args()

    def body() -> int:
        for pair in export(Path(expand_home("folder", given.folder)), given.out):
            print(command_of(pair))
        return EXIT_DONE

    return exit_code_of(body, frozenset())


if __name__ == "__main__":
    sys.exit(main())
