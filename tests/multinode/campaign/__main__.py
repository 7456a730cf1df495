"""`python -m tests.multinode.campaign`: run the schedules of some seeds, one after another."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.multinode.campaign.campaign import QUIET_SECONDS, Campaign
from tests.multinode.campaign.log import parse_seeds, read_outcomes, summarize
from tests.multinode.campaign.nodes import NotHealedError, three_nodes
from tests.multinode.campaign.schedule import draw_schedule


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 if a schedule of these seeds did not end well."""
    given = _parser().parse_args(args)
    seeds = given.seeds
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # the cluster's files are removed
    if given.show:
        print("\n".join(f"{seed}: {draw_schedule(seed)}" for seed in seeds))
        return 0
    done = {} if given.again else read_outcomes(given.log)
    to_run = [seed for seed in seeds if seed not in done]
    print(f"{len(seeds)} seeds, of which {len(to_run)} are still to be run", flush=True)
    if to_run:
        folder = given.keep or Path(tempfile.mkdtemp(prefix="campaign-"))
        folder.mkdir(parents=True, exist_ok=True)
        while to_run:
            to_run = _run_some(to_run, folder, given.log, given.quiet_seconds)
    outcomes = [one for seed, one in sorted(read_outcomes(given.log).items()) if seed in set(seeds)]
    print(summarize(outcomes))
    return 0 if all(one.verdict == "ok" for one in outcomes) else 1


def _run_some(seeds: Sequence[int], folder: Path, log: Path, quiet_seconds: float) -> list[int]:
    """Run seeds on one cluster until it cannot be healed; return those that are left.

    Raises NotHealedError if that is so before the first.
    """
    left = list(seeds)
    with three_nodes(folder) as nodes:
        campaign = Campaign(nodes, folder, quiet_seconds)
        while left:
            try:
                campaign.run(left[0], log)
            except NotHealedError as error:
                if len(left) == len(seeds):
                    raise
                print(f"another cluster is started: {error}", flush=True)
                return left
            left = left[1:]
    return left


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.multinode.campaign", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=_seeds("0-199"), metavar="N,N-N", help="(default: 0-199)")
    parser.add_argument(
        "--log", type=Path, required=True, metavar="FILE", help="a line for each seed; others are added"
    )
    parser.add_argument("--again", action="store_true", help="also the seeds that are in the log already")
    parser.add_argument("--show", action="store_true", help="print the schedules and run nothing")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="folder for the runs that do not end well (default: /tmp)"
    )
    parser.add_argument(
        "--quiet-seconds",
        type=float,
        default=QUIET_SECONDS,
        metavar="X",
        help=f"a run hangs after so long without an answer or a fault (default: {QUIET_SECONDS:.0f})",
    )
    return parser


def _seeds(text: str) -> list[int]:
    try:
        return parse_seeds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
