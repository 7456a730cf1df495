"""Writes the trained maps of a study's folder as files for `--translation`: `FOLDER/adapters/CELL.safetensors`."""

from pathlib import Path

from examples.training.studies.folder import StudyFolder, unpack
from latentmas_ray.models.translation import ThoughtAdapter, save_adapter

ADAPTERS = "adapters"


def export_maps(folder: StudyFolder) -> None:
    """Write the maps of all finished cells that are not written yet."""
    (folder.path / ADAPTERS).mkdir(exist_ok=True)
    for name, row in folder.rows.items():
        path = folder.path / ADAPTERS / f"{name}.safetensors"
        if row.weights is None or path.exists():
            continue
        adapter = ThoughtAdapter(
            matrix_AB=unpack(folder.weights(name))["matrix"],
            writer=Path(row.settings["writer"]).name,
            reader=row.settings["reader"],
            writer_revision=row.figures["writer_revision"],
            reader_revision=row.figures["reader_revision"],
            trained={"seed": row.seed, **row.settings},
        )
        save_adapter(adapter, path)
