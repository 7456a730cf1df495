"""The command line of a study: `python -m examples.training.NAME FOLDER`."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from examples.training.studies.cell import CellFunction, StudyCell
from examples.training.studies.folder import StudyFolder, StudyRow
from examples.training.studies.run import choose_cells, run_cells
from examples.training.studies.table import StudyTable, cost_line
from latentmas_ray.cli.errors import EXIT_DONE, EXIT_FAILED, CommandInterruptError, exit_code_of
from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home
from latentmas_ray.seeds import parse_seeds


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study: its cells, the function that computes one, and the tables and plot of what is there.

    `name` is that of its module in `examples/training`. `make_cells` is given the parsed flags: `seeds`, `minute`, and
    those of `add_flags`; it raises InputError for values that fit nothing. `make_tables` and `plot` are given the
    finished cells, which may be a part of the study. `export` writes files for users from what cells have trained.
    """

    name: str
    purpose: str
    make_cells: Callable[[argparse.Namespace], Sequence[StudyCell]]
    function: CellFunction
    make_tables: Callable[[Sequence[StudyRow]], Sequence[StudyTable]]
    plot: Callable[[Sequence[StudyRow], Path], None] | None = None
    export: Callable[[StudyFolder], None] | None = None
    add_flags: Callable[[argparse.ArgumentParser], None] | None = None
    flags: frozenset[str] = frozenset()  # the fields of `add_flags`, of which errors name the flag
    seeds: str = "1,2,3"


class _Parser(argparse.ArgumentParser):
    """Raises ConfigError, which becomes one line, instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError("arguments", " ".join(sys.argv[1:]), f"{message}; see --help")


def study_command(study: Study, arguments: Sequence[str] | None = None) -> int:
    """Run the command line of a study and return the exit code: 0 done, 1 a cell failed, 2 bad input, 130 interrupted.

    `arguments` are the process's own if None.
    """

    def body() -> int:
        try:
            return _run(study, _parser(study).parse_args(arguments))
        except KeyboardInterrupt as error:
            raise CommandInterruptError from error

    return exit_code_of(body, frozenset({"only", "minute", "table"}) | study.flags)


def write_tables(study: Study, folder: StudyFolder) -> str:
    """Write `table.md`, `table.json` and the plot of what is there; return the markdown."""
    rows = list(folder.rows.values())
    tables = study.make_tables(rows)
    text = "\n".join(table.markdown() for table in tables) + f"\n{cost_line(rows)}\n"
    folder.write("table.md", text)
    document = {"study": study.name, "cost": cost_line(rows), "tables": [table.to_json() for table in tables]}
    folder.write("table.json", json.dumps(document, indent=1) + "\n")
    if study.plot is not None:
        study.plot(rows, folder.path / "plot.png")
    return text


def _parser(study: Study) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"python -m examples.training.{study.name}",
        description=study.purpose,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", help="gets figures, weights, tables and the plot; run again, it continues")
    parser.add_argument("--seeds", help=f"of the cells (default: {study.seeds}; with --minute the first)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="CELL",
        help="these cells, or patterns like 'sft-*', and what they need",
    )
    parser.add_argument(
        "--minute", action="store_true", help="every kind of cell at the smallest size: about a CPU minute"
    )
    parser.add_argument("--address", help="of a Ray cluster (default: RAY_ADDRESS, else Ray on this machine's cores)")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there, and run nothing")
    if study.add_flags is not None:
        study.add_flags(parser)
    return parser


def _run(study: Study, given: argparse.Namespace) -> int:
    path = Path(expand_home("folder", given.folder))
    given.seeds = parse_seeds(given.seeds or (study.seeds.split(",")[0] if given.minute else study.seeds))
    cells = study.make_cells(given)
    choose_cells(cells, given.only)  # a wrong pattern makes no folder
    if given.table:
        folder = StudyFolder(path, study.name, lock=False)
        tables = study.make_tables(list(folder.rows.values()))
        print("\n".join(table.markdown() for table in tables) + f"\n{cost_line(folder.rows.values())}")
        return EXIT_DONE
    folder = StudyFolder(path, study.name)
    try:
        chosen = choose_cells(cells, given.only, list(folder.rows))
        failed = run_cells(chosen, folder, study.function, address=given.address, say=_say)
        print(write_tables(study, folder), end="")
        if study.export is not None:
            study.export(folder)
    finally:
        folder.close()
    for name, why in failed.items():
        _say(f"error: {name}: {why}")
    return EXIT_FAILED if failed else EXIT_DONE


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
