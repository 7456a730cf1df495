"""The cells of a team whose latent agents read no other agent: one computation of thoughts serves all of a rule."""

import json
from collections.abc import Callable, Sequence
from statistics import fmean, quantiles

from benchmarks.shared_memory.team import SharedMemoryTeam, TeamMemory, read_answers, save_answers
from benchmarks.thoughts.cells import ThoughtBenchSettings, ThoughtCell, answers_file, convergence_file, plan_cells
from latentmas_ray.models import LanguageModel, load_model
from latentmas_ray.tasks import load_questions


def run_shared_cells(settings: ThoughtBenchSettings, say: Callable[[str], None]) -> None:
    """Run all cells that are not complete, block after block of questions. Raises InputError kinds."""
    lm: LanguageModel | None = None
    for block in settings.blocks:
        open_cells = [
            cell
            for cell in plan_cells(settings)
            if read_answers(answers_file(settings, cell, block), settings.identity) is None
        ]
        first = block.start == 0
        rules = dict.fromkeys([cell.rule for cell in open_cells] + [*(_without_convergence(settings) if first else [])])
        if not rules:
            continue
        questions = load_questions(settings.task, block.stop)[block.start :]
        if not questions:
            return  # the task has no more
        lm = lm or load_model(settings.model, dtype=settings.dtype)
        team = SharedMemoryTeam(settings.config(next(iter(rules)), "matched"), lm, questions)
        for rule in rules:
            _run_rule(settings, team, rule, [cell for cell in open_cells if cell.rule == rule], block, say)


def _run_rule(
    settings: ThoughtBenchSettings,
    team: SharedMemoryTeam,
    rule: str,
    cells: Sequence[ThoughtCell],
    block: range,
    say: Callable[[str], None],
) -> None:
    """Run these cells, all of that rule; without any of them only its thoughts, for their convergence."""
    team.use_rule(rule)
    memory = None
    steps = max(settings.steps) if rule in settings.rules else 0
    asked = f"questions {block.start + 1} to {block.start + len(team.questions)}"
    if any(cell.memory != "none" for cell in cells) or not cells:
        say(f"{settings.label}: {rule}: {steps} thoughts about {asked}")
        memory = team.think(steps)
        if block.start == 0:
            _save_convergence(settings, rule, memory.cosines)
    for cell in cells:
        answers = team.answer(_handed_over(team, memory, cell), cell.memory)
        save_answers(answers_file(settings, cell, block), settings.identity, answers)
        right = sum(bool(answer.correct) for answer in answers)
        say(f"{settings.label}: {cell.rule}, {cell.memory}, {cell.steps} steps: {right} of {len(answers)} right")


def _handed_over(team: SharedMemoryTeam, memory: TeamMemory | None, cell: ThoughtCell) -> TeamMemory | None:
    if cell.memory == "none":
        return None
    assert memory is not None, "a cell with memory asked for it"
    part = memory.cut(team.topology_of(cell.memory), cell.steps)
    return part.of_next_questions() if cell.memory == "deranged" else part


def _without_convergence(settings: ThoughtBenchSettings) -> Sequence[str]:
    """The rules whose convergence is not there, if there is one."""
    if max(settings.steps) < 2:
        return ()
    return [rule for rule in settings.rules if not convergence_file(settings, rule).exists()]


def _save_convergence(settings: ThoughtBenchSettings, rule: str, cosines: Sequence[Sequence[float]]) -> None:
    """Write mean, 10th and 90th percentile of the cosines by step, over agents and questions."""
    if rule not in settings.rules or max(settings.steps) < 2:
        return
    by_step = [sorted(column) for column in zip(*cosines, strict=True)]
    found = [(fmean(column), *_tenths(column)) for column in by_step]
    path = convergence_file(settings, rule)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found) + "\n")


def _tenths(values: Sequence[float]) -> tuple[float, float]:
    """The 10th and the 90th percentile."""
    cuts = quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]] * 9
    return cuts[0], cuts[-1]
