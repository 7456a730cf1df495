"""A training run in a folder: starts or resumes it, reports progress, writes the model."""

import copy
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from examples.tiny_model.curriculum import mix_at
from examples.tiny_model.designs import Design
from examples.tiny_model.first_weights import set_first_weights
from examples.tiny_model.loop import Trainer, TrainingSettings
from examples.tiny_model.plot import plot_history

_REPORT_STEPS = 10
_SAVE_SECONDS = 120.0
_MODEL_STEPS = 100  # steps between two writes of the model


def train(folder: Path, design: Design, *, num_steps: int, seed: int, compiled: bool = True) -> None:
    """Train a model of this design to step `num_steps`, resuming from the state in `folder` if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = design.train_tokenizer()
    torch.manual_seed(seed)
    model = design.first_model(tokenizer)
    set_first_weights(model)
    settings = TrainingSettings(num_steps=num_steps, first_fall=design.first_fall, seed=seed)
    trainer = Trainer(model, tokenizer, settings, mix_at, marks=design.marks, compiled=compiled)
    state = folder / "state.pt"
    if state.exists():
        trainer.load(state)
        print(f"resuming after step {trainer.progress.step}", flush=True)
    figures: list[Mapping[str, float]] = []
    saved = time.monotonic()
    while (step := trainer.progress.step) < num_steps:
        figures.append(trainer.step())
        step += 1
        if step % _REPORT_STEPS == 0 or step == num_steps:
            _report(trainer, means(figures))
            figures = []
            if time.monotonic() - saved > _SAVE_SECONDS or step == num_steps:
                trainer.save(state)
                _write_history(trainer, folder)
                saved = time.monotonic()
        if step % _MODEL_STEPS == 0 or step == num_steps:
            write_model(trainer, design, folder / "model")
    plot_history(trainer.progress.history, folder / "curves.png")


def means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the steps that have it."""
    names = dict.fromkeys(name for one in figures for name in one)
    values = {name: [one[name] for one in figures if name in one] for name in names}
    return {name: round(sum(some) / len(some), 4) for name, some in values.items()}


def write_model(trainer: Trainer, design: Design, folder: Path) -> None:
    """Write the model, in bfloat16, and its tokenizer as a model folder."""
    model = copy.deepcopy(trainer.model)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder)
    design.wrap(trainer.tokenizer).save_pretrained(folder)


def _report(trainer: Trainer, figures: Mapping[str, float]) -> None:
    progress = trainer.progress
    progress.history.append({"step": progress.step, "seconds": round(progress.seconds, 1), **figures})
    shown = " ".join(f"{name} {value:.3f}" for name, value in figures.items() if not name.endswith("tokens"))
    print(f"step {progress.step} {progress.seconds:.0f} s  {shown}", flush=True)


def _write_history(trainer: Trainer, folder: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in trainer.progress.history)
    (folder / "history.jsonl").write_text(lines, encoding="utf-8")
