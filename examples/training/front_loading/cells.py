"""The cells of the study, and the function that computes one.

pretrain-MIX-SEED → sft-MIX-SET-SEED, sft-MIX-SETx2-SEED (twice the steps) → rl-MIX-SEED, after high-quality tuning
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from examples.training.front_loading.documents import (
    CHAT,
    CONTROLS,
    MIXES,
    PLAIN,
    SFT_SETS,
    DocumentMaker,
    MixStream,
    make_tokenizer,
)
from examples.training.front_loading.families import FAMILIES
from examples.training.front_loading.judge import ask, held_out_problems
from examples.training.front_loading.rewards import train_by_rewards
from examples.training.front_loading.sizes import (
    ModelSize,
    PoolSizes,
    RewardSize,
    StageSize,
    StudySize,
    minute_size,
    size_from,
)
from examples.training.front_loading.supervised import new_model, train_on, weights_of
from examples.training.studies.cell import CellResult, CellRun, StudyCell
from examples.training.studies.intervals import accuracy_of, pack_verdicts
from latentmas_ray.errors import ConfigError

EXTREMES = ("none", "union")  # of pretraining, which are trained by rewards
RL_SET = "small"  # after fine-tuning on it
_LEAST_QUESTIONS = 2 * len(FAMILIES)


def add_flags(parser: ArgumentParser) -> None:
    """Add the study's own flags."""
    parser.add_argument(
        "--mixes", default=",".join((*MIXES, *CONTROLS)), metavar="M,M", help="pretraining mixes (default: all)"
    )
    parser.add_argument("--questions", type=int, metavar="N", help="of the test (default: 800)")


def make_cells(given: Namespace) -> list[StudyCell]:
    """Return the cells of the parsed flags. Raises ConfigError for an unknown mix and for too few questions."""
    mixes = given.mixes.split(",")
    for mix in mixes:
        if mix not in (*MIXES, *CONTROLS):
            raise ConfigError("mixes", mix, f"it must be one of {', '.join((*MIXES, *CONTROLS))}")
    size = minute_size() if given.minute else StudySize()
    if given.questions is not None:
        if given.questions < _LEAST_QUESTIONS:
            expected = f"it must be at least {_LEAST_QUESTIONS}: two of each family"
            raise ConfigError("questions", given.questions, expected)
        size = replace(size, num_questions=given.questions)
    return [cell for seed in given.seeds for cell in cells_of_seed(size, seed, list(dict.fromkeys(mixes)))]


def cells_of_seed(size: StudySize, seed: int, mixes: Sequence[str]) -> list[StudyCell]:
    """Return the cells of one seed: four mixes with all sets, controls with one set, rewards on the extremes."""
    model = {"model": asdict(size.model), "num_questions": size.num_questions}
    cells = []
    for mix in mixes:
        data = {"pools": asdict(size.pools), "data": mix}
        first = StudyCell(
            name=f"pretrain-{mix}-{seed}", seed=seed, settings={**model, **data, "training": asdict(size.pretraining)}
        )
        cells.append(first)
        for chosen, times in ((chosen, times) for times in (1, 2) for chosen in SFT_SETS):
            if mix in CONTROLS and (chosen, times) != (RL_SET, 1):
                continue
            stage = replace(size.fine_tuning, num_steps=times * size.fine_tuning.num_steps)
            settings = {**model, "pools": asdict(size.pools), "data": chosen, "training": asdict(stage)}
            name = f"sft-{mix}-{chosen}{'x2' if times == 2 else ''}-{seed}"
            cells.append(StudyCell(name=name, seed=seed, settings=settings, after=(first.name,)))
        if mix in EXTREMES:
            settings = {**model, "rewards": asdict(size.rewards)}
            after = (f"sft-{mix}-{RL_SET}-{seed}",)
            cells.append(StudyCell(name=f"rl-{mix}-{seed}", seed=seed, settings=settings, after=after))
    return cells


def run_cell(run: CellRun) -> CellResult:
    """Pretrain, fine-tune or train by rewards as the cell's settings say, and ask the held-out problems."""
    settings, seed = run.cell.settings, run.cell.seed
    tokenizer = make_tokenizer()
    model = new_model(size_from(ModelSize, settings["model"]), tokenizer.get_vocab_size(), seed)
    if run.cell.after:
        model.load_state_dict(run.start)
    figures: dict[str, Any]
    if "rewards" in settings:
        figures = train_by_rewards(run, model, tokenizer, size_from(RewardSize, settings["rewards"]))
    else:
        stage = size_from(StageSize, settings["training"])
        stream = MixStream(
            DocumentMaker(tokenizer),
            settings["data"],
            size_from(PoolSizes, settings["pools"]),
            share=stage.reasoning,
            marks=CHAT if run.cell.after else PLAIN,
            seed=seed,
        )
        figures = train_on(run, model, stream, stage)
    problems = held_out_problems(settings["num_questions"])
    verdicts = pack_verdicts(ask(model, tokenizer, problems, CHAT if run.cell.after else PLAIN))
    return CellResult(
        figures={"accuracy": accuracy_of(verdicts), **figures, "verdicts": verdicts}, weights=weights_of(model)
    )


def verdicts_by_seed(rows: Iterable[Any], name: str) -> Mapping[int, str]:
    """Return the verdicts of the finished cells called `name` but for their seed."""
    return {row.seed: row.figures["verdicts"] for row in rows if row.cell == f"{name}-{row.seed}"}
