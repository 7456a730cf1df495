"""Trains maps of thoughts between two frozen models, and judges them against the map that needs no training."""

import sys
from collections.abc import Sequence

from examples.training.adapters.cells import FLAGS, add_flags, make_cells, run_cell
from examples.training.adapters.files import export_maps
from examples.training.adapters.tables import make_tables
from examples.training.studies.command import Study, study_command

STUDY = Study(
    name="adapters",
    purpose="Train maps of thoughts between two frozen models, and judge them against the map that needs no training.",
    make_cells=make_cells,
    function=run_cell,
    make_tables=make_tables,
    export=export_maps,
    add_flags=add_flags,
    flags=FLAGS,
    seeds="1,2,3",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return study_command(STUDY, arguments)


if __name__ == "__main__":
    sys.exit(main())
