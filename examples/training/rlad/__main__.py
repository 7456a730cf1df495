"""Run the study: `python -m examples.training.rlad FOLDER`, from a checkout. See `docs/training_rlad.md`."""

import sys

from examples.training.rlad.study import add_flags, compute, make_cells
from examples.training.rlad.tables import make_tables, plot
from examples.training.studies.command import Study, study_command

STUDY = Study(
    name="rlad",
    purpose="Train an abstraction agent and a solver together (RLAD), and judge the pair.",
    make_cells=make_cells,
    function=compute,
    make_tables=make_tables,
    plot=plot,
    add_flags=add_flags,
    flags=frozenset({"start", "workers"}),
)

if __name__ == "__main__":
    sys.exit(study_command(STUDY))
