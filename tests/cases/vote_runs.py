"""Output folders of made-up runs that agree and disagree, and files of votes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentmas_ray.config import RunConfig
from latentmas_ray.runs.results import Failure
from tests.cases.report import make_answer, write_run


def write_voter(
    folder: Path, predictions: Sequence[str | None], *, golds: Sequence[str] | None = None, **config: Any
) -> str:
    """A run that gave these answers to the questions q0, q1, …, whose golds are 0, 2, 4, … unless others are given.
    None: an answer that cannot be read; "failed": no answer."""
    run_config = RunConfig(**{"task": "sums", "method": "single", "max_new_tokens": 64, **config})
    golds = [str(2 * number) for number in range(len(predictions))] if golds is None else golds
    answers = [
        replace(
            make_answer(number, run_config),
            answer=f"It is {prediction}.",
            prediction=prediction,
            gold=gold,
            correct=prediction == gold,
        )
        for number, (prediction, gold) in enumerate(zip(predictions, golds, strict=True))
        if prediction != "failed"
    ]
    failures = [
        Failure(id=f"q{number}", agent="judger", error="it fell")
        for number, prediction in enumerate(predictions)
        if prediction == "failed"
    ]
    return str(write_run(folder, answers, config=run_config, failures=failures))


def write_votes(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(votes: Mapping[str, str], golds: str = "", **fields: Any) -> list[dict[str, Any]]:
    """Rows of a file of votes: by agent, one letter for each question, `-` for none."""
    return [
        {
            "question": number,
            "agent": agent,
            "answer": None if label == "-" else label,
            **({"gold": golds[number]} if golds else {}),
            **fields,
        }
        for agent, labels in votes.items()
        for number, label in enumerate(labels)
    ]
