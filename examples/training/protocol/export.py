"""Write what a study trained as a model: `python -m examples.training.protocol.export FOLDER CELL OUTPUT`.

OUTPUT gets `difference.safetensors`, the difference to `tiny` in eight bits, as the package has it for `tiny-latent`,
and `model/`, the model folder that the package makes of it, for `--model OUTPUT/model`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

from examples.training.protocol.study import STUDY
from examples.training.studies.folder import StudyFolder, unpack
from latentmas_ray.cli.errors import EXIT_DONE, exit_code_of
from latentmas_ray.errors import ConfigError
from latentmas_ray.models.names import EMBEDDED_FOLDER
from latentmas_ray.models.weight_difference import DIFFERENCE, WEIGHTS, encode, make_folder
from latentmas_ray.paths import expand_home


def export(folder: Path, cell: str, output: Path) -> None:
    """Write the weights of a finished cell to `output`. Raises ConfigError for a cell without weights."""
    study = StudyFolder(folder, STUDY.name, lock=False)
    with_weights = [name for name, row in study.rows.items() if row.weights is not None]
    if cell not in with_weights:
        listed = ", ".join(with_weights) or "none yet"
        raise ConfigError("cell", cell, f"it must be a finished cell that has weights; there are {listed}")
    output.mkdir(parents=True, exist_ok=True)
    save_file(encode(load_file(EMBEDDED_FOLDER / WEIGHTS), unpack(study.weights(cell))), output / DIFFERENCE)
    (output / "model").mkdir(exist_ok=True)
    make_folder(output / "model", EMBEDDED_FOLDER, output / DIFFERENCE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.training.protocol.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="of the study")
    parser.add_argument("cell", help="whose weights, such as text-1")
    parser.add_argument("output", help="a folder that is made")

    def body() -> int:
        given = parser.parse_args(arguments)
        folder, output = (Path(expand_home(name, getattr(given, name))) for name in ("folder", "output"))
        export(folder, given.cell, output)
        return EXIT_DONE

    return exit_code_of(body, frozenset())


if __name__ == "__main__":
    sys.exit(main())
