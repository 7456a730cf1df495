"""`python -m examples.training.front_loading FOLDER`, from a checkout."""

import sys

from examples.training.front_loading.cells import add_flags, make_cells, run_cell
from examples.training.front_loading.plot import plot_stages
from examples.training.front_loading.tables import make_tables
from examples.training.studies.command import Study, study_command

STUDY = Study(
    name="front_loading",
    purpose=(
        "Where reasoning data belongs: pretrain on four mixes (and two controls), fine-tune each on three sets, once\n"
        "and doubled, train the extremes by rewards, and ask held-out problems after each stage."
    ),
    make_cells=make_cells,
    function=run_cell,
    make_tables=make_tables,
    plot=plot_stages,
    add_flags=add_flags,
    flags=frozenset({"mixes", "questions"}),
)

if __name__ == "__main__":
    sys.exit(study_command(STUDY))
