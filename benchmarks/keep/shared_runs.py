"""The cells of a team whose latent agents read no other agent: what they choose is computed once for all codecs."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.keep.settings import MEMORIES, SPOTS, KeepBenchSettings, KeepCell
from benchmarks.keep.spots import keep_spots
from benchmarks.shared_memory.team import SharedMemoryTeam, TeamMemory, read_answers, save_answers
from latentmas_ray.config import RunConfig
from latentmas_ray.models import load_model


def answers_file(settings: KeepBenchSettings, cell: KeepCell, memory: str) -> Path:
    """Where the answers of a cell are that has no run folder."""
    return settings.output / f"{cell.name}-{memory}.json"


def run_shared(settings: KeepBenchSettings, config: RunConfig, report: Callable[[str], None]) -> None:
    """Run what is not there yet; `config` is that of all cells, where everything is kept. Raises InputError and
    RunError kinds."""
    open_cells = [
        (cell, memory)
        for cell in settings.cells()
        for memory in MEMORIES
        if read_answers(answers_file(settings, cell, memory), settings.identity) is None
    ]
    if not open_cells:
        return
    lm = load_model(settings.model, dtype=settings.dtype)
    team = SharedMemoryTeam(config, lm)
    for share, by in dict.fromkeys((cell.keep, cell.by) for cell, _ in open_cells):
        readers_choose = by == "reader" and share < 1
        computed: TeamMemory | None = None
        for control in MEMORIES:
            cells = [cell for cell, memory in open_cells if (cell.keep, cell.by, memory) == (share, by, control)]
            if cells and (computed is None or readers_choose):
                asked = control if readers_choose else "matched"
                computed = team.think(settings.latent_steps, settings.choice(cells[0]), control=asked)
                if by in SPOTS:
                    computed = keep_spots(computed, by, lm.chat.tokenizer)
            for cell in cells:
                assert computed is not None, "it was computed for the first cell"
                handed = computed.through(cell.codec)
                if control == "deranged" and not readers_choose:
                    handed = handed.of_next_questions()
                answers = team.answer(handed, control)
                path, sizes = answers_file(settings, cell, control), computed.sent_bytes(cell.codec)
                save_answers(path, settings.identity, answers, sent_bytes=sizes)
                report(f"{cell.name}, {control}: {sum(bool(one.correct) for one in answers)} of {len(answers)} right")
