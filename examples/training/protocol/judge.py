"""Judges weights through the project's runtime: the same questions under the controls of memory, by number of steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.training.studies.cell import CellResult, CellRun
from examples.training.studies.intervals import accuracy_of, pack_verdicts
from latentmas_ray import LatentMAS
from latentmas_ray.models.names import EMBEDDED_FOLDER
from latentmas_ray.tasks import load_questions

TEAMS = {"notes": "hierarchical", "chain": "sequential"}
CONTROLS = ("matched", "deranged", "latent-only", "none")


def judge_cell(run: CellRun) -> CellResult:
    """Answer the questions of a cell's settings: `task`, `memory` (a control), `steps` (a list) and `num_questions`.

    The model is `tiny`, with the weights of the cell that it comes after, if any. Figures: `verdicts` by number of
    steps, one character for a question, and `accuracy`.
    """
    settings = run.cell.settings
    verdicts: dict[str, str] = {} if run.resumed is None else dict(run.resumed)
    model, tokenizer = load_judged(run.start if run.cell.after else None)
    for steps in settings["steps"]:
        if str(steps) not in verdicts:
            verdicts[str(steps)] = judge(model, tokenizer, settings, steps)
            run.save(lambda: dict(verdicts))
    return CellResult(
        figures={"verdicts": verdicts, "accuracy": {name: accuracy_of(one) for name, one in verdicts.items()}}
    )


def load_judged(weights: Mapping[str, Tensor] | None) -> tuple[Any, Any]:
    """Return `tiny` in bfloat16, with `weights` in place of its own where there are some, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_FOLDER, dtype=torch.bfloat16, trust_remote_code=False)
    if weights is not None:
        model.load_state_dict(dict(weights), strict=False)  # rounds to bfloat16
    return model, AutoTokenizer.from_pretrained(EMBEDDED_FOLDER, trust_remote_code=False)


def judge(model: Any, tokenizer: Any, settings: Mapping[str, Any], steps: int) -> str:
    """Return the verdicts on the first `num_questions` questions of the task, greedy, in the runtime without Ray."""
    task = settings["task"]
    questions: Sequence[Any] = load_questions(task, settings["num_questions"])
    thinking: dict[str, Any] = {} if settings["memory"] == "none" else {"latent_steps": steps}
    with LatentMAS(
        model,
        tokenizer=tokenizer,
        task=task,
        topology=TEAMS[task],
        memory=settings["memory"],
        **thinking,
        batch_size=settings.get("batch_size", 100),
        temperature=0.0,
        max_new_tokens=64,
        runtime="local",
    ) as system:
        return pack_verdicts(bool(answer.correct) for answer in system.map(questions))
