"""Judges policies on held-out problems through the project's runtime, with hints as text and as memory.

A condition says who gives hints, who solves, and how a hint reaches the solver. Each is run greedily with one hint and
one answer, and drawn at temperature 1 with m hints and k answers to each (m · k answers alone where there is no hint).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from torch import Tensor

from examples.training.rlad.policy import SHAPES, save_policy
from examples.training.rlad.settings import JudgeSettings
from examples.training.rlad.task.machine import machine_questions
from examples.training.rlad.task.prompts import HINTER, POLICIES, SOLVER
from latentmas_ray import LatentMAS, load_run
from latentmas_ray.config import HintSource, MemoryName, Method
from latentmas_ray.runs.hints.figures import score_questions
from latentmas_ray.runs.results import Answer
from latentmas_ray.system.fields import RunFields
from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.hints.copies import copies_for_hints

TEAM = Path(__file__).with_name("task") / "team.yaml"
_MAX_NEW_TOKENS = 24

Way = Literal["greedy", "drawn"]
WAYS: tuple[Way, ...] = ("greedy", "drawn")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Which policies work together, and how. `hinter` and `solver` name trainings: warm, rlad or alone."""

    hinter: str
    solver: str
    method: Method = "text"
    hints: HintSource = "own"
    memory: MemoryName = "matched"
    thoughts: str | None = None  # the rule of a latent hint; None: that of the settings
    ways: tuple[Way, ...] = WAYS

    @property
    def name(self) -> str:
        if self.memory == "none":
            return f"no hint > {self.solver}"
        source = "rule" if self.hints == "oracle" else self.hinter
        rest = [self.method, *([] if self.memory == "matched" else [self.memory])]
        return f"{source} > {self.solver}, {', '.join([*rest, *([self.thoughts] if self.thoughts else [])])}"


def conditions() -> list[Condition]:
    """Return everything that is judged for one seed."""
    bare = [Condition(hinter="warm", solver=one, memory="none") for one in ("warm", "rlad", "alone")]
    pairs = [Condition(hinter=hinter, solver=solver) for hinter in ("warm", "rlad") for solver in ("warm", "rlad")]
    rules = [
        Condition(hinter="warm", solver=solver, hints="oracle", ways=("greedy",))
        for solver in ("warm", "rlad", "alone")
    ]
    other = Condition(hinter="rlad", solver="rlad", memory="deranged", ways=("greedy",))
    latent = [
        Condition(hinter=who, solver=who, method="latent", thoughts=rule, ways=("greedy",))
        for who in ("warm", "rlad")
        for rule in ("realign", "soft", "soft:top_k=1")
    ]
    controls: tuple[MemoryName, ...] = ("deranged", "prompt-only", "latent-only")
    latent += [
        Condition(hinter="rlad", solver="rlad", method="latent", memory=memory, thoughts="soft", ways=("greedy",))
        for memory in controls
    ]
    latent += [
        Condition(hinter=who, solver=who, method="latent", hints="oracle", ways=("greedy",)) for who in ("warm", "rlad")
    ]
    return [*bare, *pairs, *rules, other, *latent]


@dataclass(frozen=True, kw_only=True)
class JudgedWay:
    """What a condition gave in one of the ways; `scores` has a number for each question, in their order."""

    scores: Mapping[str, Sequence[float]]  # by the name of a figure of hints
    num_hints: int  # with words
    num_leaks: int
    output_tokens: float  # a question, of both agents

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": {name: [round(one, 4) for one in values] for name, values in self.scores.items()},
            "num_hints": self.num_hints,
            "num_leaks": self.num_leaks,
            "output_tokens": self.output_tokens,
        }


class Judge:
    """Runs conditions in a folder of its own, which gets the models, the questions and the runs."""

    def __init__(
        self,
        folder: Path,
        policies: Mapping[str, Mapping[str, Mapping[str, Tensor]]],
        settings: JudgeSettings,
        seed: int,
    ) -> None:
        """`policies` has the weights by training and role."""
        self._folder, self._settings, self._seed = folder, settings, seed
        for training, weights in policies.items():
            for role in POLICIES:
                if role in weights:
                    save_policy(folder / f"{training}-{role}", SHAPES[role], weights[role])
        self._questions = machine_questions(settings.num_questions)
        self._task = folder / "machine.jsonl"
        self._task.write_text("".join(json.dumps(dict(one.record)) + "\n" for one in self._questions), encoding="utf-8")

    def run(self, condition: Condition, way: Way) -> JudgedWay:
        """Answer all questions in one of the ways."""
        is_greedy = way == "greedy"
        num_hints = 1 if is_greedy or condition.hints == "oracle" else self._settings.num_hints
        num_answers = 1 if is_greedy else self._settings.num_answers
        solver = self._folder / f"{condition.solver}-{SOLVER}"
        # Without hints the solver is the only agent that works.
        hinter = solver if condition.memory == "none" else self._folder / f"{condition.hinter}-{HINTER}"
        fields: RunFields = {
            "task": str(self._task),
            "method": condition.method,
            "memory": condition.memory,
            "abstractions": num_hints,
            "samples": num_answers,
            "batch_size": 100,
            "temperature": 0.0 if is_greedy else 1.0,
            "max_new_tokens": _MAX_NEW_TOKENS,
            "models": {SOLVER: str(solver)},
            "runtime": "local",
            "dtype": "float32",
        }
        if not is_greedy:
            fields |= {"top_p": 1.0, "seed": self._seed}
        if condition.memory != "none":
            fields["hints"] = condition.hints
            if condition.method == "latent":
                fields["latent_steps"] = self._settings.latent_steps
                fields["thoughts"] = condition.thoughts or self._settings.thoughts
        output = self._folder / f"{condition.name} {way}".replace(" ", "_").replace(">", "to").replace(",", "")
        with LatentMAS(str(hinter), topology=str(TEAM), **fields) as mas:
            mas.evaluate(output=str(output))
        return self._read(load_run(output).answers, num_hints, condition)

    def _read(self, answers: Sequence[Answer], num_hints: int, condition: Condition) -> JudgedWay:
        questions = load_questions(str(self._task))
        copies = {one.id: one for one in copies_for_hints(questions, num_hints, condition.hints)}
        by_question = score_questions(answers, copies, seed=self._seed)
        order = [question.id for question in questions]
        names = list(by_question[order[0]])
        read = [answer.hint.leaks for answer in answers if answer.hint is not None and answer.hint.leaks is not None]
        return JudgedWay(
            scores={name: [by_question[one][name] for one in order] for name in names},
            num_hints=len(read),
            num_leaks=sum(read),
            output_tokens=fmean(answer.output_tokens for answer in answers) * len(answers) / len(order),
        )
