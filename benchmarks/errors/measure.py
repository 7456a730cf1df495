"""Runs every cell, with matched memory and with one agent that gets something wrong, on one loaded model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors.settings import ChainSetting, ErrorsBenchSettings
from benchmarks.errors.topologies import chain_topology
from latentmas_ray import LatentMAS, load_run
from latentmas_ray.models.given import ModelObject, TokenizerObject
from latentmas_ray.models.load import load_model
from latentmas_ray.runs.controls.names import control_output
from latentmas_ray.runs.controls.summary import ControlsSummary
from latentmas_ray.stats import PairedDifference, compare_paired
from latentmas_ray.system.fields import RunFields


@dataclass(frozen=True, kw_only=True)
class ErrorFigures:
    """What was measured of one cell."""

    cell: ChainSetting
    summary: ControlsSummary
    adopted: dict[str, bool]  # by question: whether the answer follows from what the first agent was told
    over_text: PairedDifference | None = None  # of adoption, latent − text in the same chain


def measure(settings: ErrorsBenchSettings, tell: Callable[[str], None]) -> list[ErrorFigures]:
    """Return the figures of every cell. What is in the folder already is not run again. Raises InputError kinds."""
    lm = load_model(settings.model)  # once, for all cells
    found: dict[ChainSetting, ErrorFigures] = {}
    for cell in settings.cells():
        tell(cell.folder)
        summary, adopted = _run(cell, settings, lm.model, lm.chat.tokenizer)
        text = found.get(cell._replace(method="text", guard="off"))
        over_text = None if text is None or text.cell == cell else _compare(text.adopted, adopted)
        found[cell] = ErrorFigures(cell=cell, summary=summary, adopted=adopted, over_text=over_text)
    return list(found.values())


def _run(
    cell: ChainSetting, settings: ErrorsBenchSettings, model: ModelObject, tokenizer: TokenizerObject
) -> tuple[ControlsSummary, dict[str, bool]]:
    output = str(Path(settings.folder) / cell.folder)
    fields: RunFields = {
        "task": cell.task,
        "method": cell.method,
        "temperature": 0.0,
        "max_new_tokens": settings.max_new_tokens,
        "limit": settings.limit,
        "batch_size": settings.batch_size,
        "runtime": "local",
    }
    if cell.method == "latent":
        fields |= {"latent_steps": settings.latent_steps, "guard": cell.guard}
    topology = chain_topology(cell.task, cell.between)
    with LatentMAS(model, tokenizer=tokenizer, topology=topology, **fields) as mas:
        summary = mas.evaluate(output=output, resume=True, controls=("matched", "corrupted"))
    rows = load_run(control_output(output, "corrupted")).answers
    return summary, {row.id: row.adoption.outcome == "adopted" for row in rows if row.adoption is not None}


def _compare(text: dict[str, bool], latent: dict[str, bool]) -> PairedDifference | None:
    shared = [name for name in text if name in latent]
    return compare_paired([text[name] for name in shared], [latent[name] for name in shared]) if shared else None
