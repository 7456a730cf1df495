"""`python -m tests.numerics.sweep`: try a random tiny model of every family, and say what happens to each."""

import argparse
import json
import sys
from collections.abc import Sequence

import torch
from transformers.utils import logging as transformers_log

from tests.numerics.sweep.listing import all_families
from tests.numerics.sweep.table import write
from tests.numerics.sweep.trial import Outcome, try_family


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 if a family neither works nor is refused."""
    given = _parser().parse_args(args)
    families = all_families()
    unknown = set(given.families) - set(families)
    if given.write and given.families:
        print("--write: the tables are of all families; leave the names out", file=sys.stderr)
        return 2
    if unknown:
        print(f"not a model_type of transformers: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    transformers_log.set_verbosity(transformers_log.CRITICAL)
    transformers_log.disable_progress_bar()
    outcomes = []
    for name in given.families or families:
        outcomes.append(try_family(families[name]))
        _print(outcomes[-1], with_traceback=given.traceback)
    if given.write:
        write(outcomes)
    if given.json:
        given.json.write(json.dumps([one.to_json() for one in outcomes], indent=1))
    counts = {kind: sum(one.kind == kind for one in outcomes) for kind in ("works", "refused", "untried", "fault")}
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 1 if counts["fault"] else 0


def _print(outcome: Outcome, *, with_traceback: bool) -> None:
    errors = f"{outcome.largest_error:.1e}" if outcome.errors else ""
    merge = f"; no merge: {outcome.merge}" if outcome.merge else ""
    print(f"{outcome.kind:8} {outcome.family:28} {errors:8} {outcome.reason}{merge}", flush=True)
    if with_traceback and outcome.where:
        print(outcome.where, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.numerics.sweep", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="MODEL_TYPE", help="(default: all)")
    parser.add_argument("--json", type=argparse.FileType("w"), metavar="FILE", help="write all outcomes there")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/models.md")
    parser.add_argument("--traceback", action="store_true", help="print the traceback of each fault")
    return parser


if __name__ == "__main__":
    sys.exit(main())
