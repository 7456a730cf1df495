"""Has teams of two models answer questions about notes with a map of thoughts, under controls.

The experts have one model, the answering agent another. The runtime translates as in any run: it gets the map as a
file, by `translation`.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from examples.training.studies.cell import CellResult, CellRun
from examples.training.studies.intervals import pack_verdicts
from latentmas_ray import LatentMAS, Topology
from latentmas_ray.models.translation import ThoughtAdapter, save_adapter, stored_revision
from latentmas_ray.tasks import load_questions
from latentmas_ray.topology import load_topology

_TASK, _ANSWERER = "notes", "answerer"
_TOPOLOGY = "notes-hierarchical"
_MAX_NEW_TOKENS = 96  # whole answers have at most about 50
_BATCH_SIZE = 100


def judge_map(run: CellRun) -> CellResult:
    """Answer the questions under each control of the cell's `controls`; the figures have the verdicts of each.

    The map is that of the cell it comes after, or the one that needs no training. Of the settings `alone`, the reader
    gets thoughts alone. Controls: matched; deranged, another question's memory; noise, thoughts that are chance; none.
    """
    settings = run.cell.settings
    done: dict[str, str] = dict(run.resumed or {})
    with TemporaryDirectory() as folder:
        translation = _write(run.start["matrix"], settings, Path(folder)) if run.cell.after else None
        for control in settings["controls"]:
            if control not in done:
                done[control] = answer(settings, control, translation)
                run.save(lambda: dict(done))
    return CellResult(figures={f"verdicts_{name}": done[name] for name in settings["controls"]})


def answer(settings: Mapping[str, Any], control: str, translation: str | None) -> str:
    """Return the verdicts of all questions under one control."""
    fields: dict[str, Any] = {"memory": control if control in ("deranged", "none") else "matched"}
    if control != "none":
        fields |= {
            "latent_steps": settings["latent_steps"],
            "thoughts": "noise" if control == "noise" else settings["thoughts"],
            "models": {_ANSWERER: settings["reader"]},
            "translation": translation,
        }
    with LatentMAS(
        settings["reader"] if control == "none" else settings["writer"],
        topology=team(alone=settings["alone"]),
        task=_TASK,
        temperature=0.0,
        runtime="local",
        threads=1,
        batch_size=min(_BATCH_SIZE, settings["limit"]),
        max_new_tokens=_MAX_NEW_TOKENS,
        **fields,
    ) as mas:
        answers = list(mas.map(load_questions(_TASK, settings["limit"])))
    return pack_verdicts(bool(one.correct) for one in answers)


def team(*, alone: bool) -> Topology:
    """Return three experts and an answering agent, which with `alone` gets their thoughts and not their prompts."""
    topology = load_topology(_TOPOLOGY)
    if not alone:
        return topology
    agents = [agent.replace(hands_over="latents") if agent.thinks == "latent" else agent for agent in topology.agents]
    return topology.replace(agents=agents)


def _write(matrix_AB: Tensor, settings: Mapping[str, Any], folder: Path) -> str:
    writer, reader = settings["writer"], settings["reader"]
    adapter = ThoughtAdapter(
        matrix_AB=matrix_AB,
        writer=Path(writer).name,
        reader=reader,
        writer_revision=stored_revision(writer),
        reader_revision=stored_revision(reader),
    )
    save_adapter(adapter, folder / "map.safetensors")
    return str(folder / "map.safetensors")
