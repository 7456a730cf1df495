"""The warm start of both policies: supervised steps on the teacher's hints, and on problems with the right rule."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerFast

from examples.training.rlad.actors.learner import Learner, PolicyText
from examples.training.rlad.policy import make_tokenizer
from examples.training.rlad.settings import WarmSettings
from examples.training.rlad.task.machine import MachineProblem, make_machine, rule_words
from examples.training.rlad.task.prompts import HINTER, hinter_prompt, solver_prompt
from examples.training.rlad.task.teacher import teacher_hint
from examples.training.studies.cell import CellResult, CellRun
from latentmas_ray.tasks import Question
from latentmas_ray.tasks.hints.leaks import has_leak

_RAMP = 20  # steps until the learning rate is whole
_FALL_FROM = 0.5  # share of the steps after which it falls to nearly nothing
_LEAST_RATE = 0.02


@dataclass
class LeakCount:
    """How many hints of the teacher the leak filter has dropped."""

    written: int = 0
    dropped: int = 0


class WarmTexts:
    """Makes the texts of the warm start."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: WarmSettings) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self.leaks = LeakCount()

    def batch(self, role: str, rng: Random) -> list[PolicyText]:
        """Return the texts of one step."""
        make = self._of_hinter if role == HINTER else self._of_solver
        return [make(rng, make_machine(rng, "train")) for _ in range(self._settings.batch)]

    def text(self, before: str, prompt: str, output: str) -> PolicyText:
        """Return what a policy should write after its prompt. `before` are turns of other agents, as tokens stand in
        memory."""
        return PolicyText(self._ids(before + self._asked(prompt)), self._ids(output + self._tokenizer.eos_token))

    def _of_hinter(self, rng: Random, problem: MachineProblem) -> PolicyText:
        """The teacher's hint, drawn again where the filter drops it."""
        while True:
            hint = teacher_hint(rng, problem)
            self.leaks.written += 1
            if not leaks(problem, hint):
                return self.text("", hinter_prompt(problem.question), hint)
            self.leaks.dropped += 1

    def _of_solver(self, rng: Random, problem: MachineProblem) -> PolicyText:
        """The work on a problem: with the right rule as a text or in memory, or without one."""
        hint, before = "", ""
        if rng.random() < self._settings.hint_share:
            hint = rule_words(problem.rule)
            if rng.random() < self._settings.memory_share:
                hint, before = "", self._asked(hinter_prompt(problem.question)) + hint
        return self.text(before, solver_prompt(problem.question, hint), problem.work)

    def _asked(self, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def leaks(problem: MachineProblem, hint: str) -> bool:
    """Return whether a hint contains the gold, by the project's leak check."""
    return has_leak(Question(id="1", question=problem.question, kind="number", gold=str(problem.gold), record={}), hint)


def warm_rate(step: int, num_steps: int) -> float:
    """Return the factor of the learning rates at a step."""
    left = (num_steps - step) / (num_steps * (1 - _FALL_FROM))
    return min(1.0, (step + 1) / _RAMP, max(left, _LEAST_RATE))


def warm_start(run: CellRun, role: str, settings: WarmSettings) -> CellResult:
    """Train one policy from random weights. Its figures are those of the last steps."""
    texts = WarmTexts(make_tokenizer(), settings)
    learner = Learner(role, run.cell.seed)
    first, history = 0, []
    if run.resumed is not None:
        first, history = run.resumed["step"], list(run.resumed["history"])
        learner.load(run.resumed["learner"])
        texts.leaks = LeakCount(*run.resumed["leaks"])
    for step in range(first, settings.num_steps):
        batch = texts.batch(role, Random(f"{run.cell.seed} {role} {step}"))
        history.append(learner.fit(batch, warm_rate(step, settings.num_steps)))
        run.save(partial(_state, step + 1, history, learner, texts.leaks))
    figures: dict[str, Any] = dict(_last(history))
    if role == HINTER:
        figures["teacher_leaks"] = texts.leaks.dropped / texts.leaks.written
    return CellResult(figures={**figures, "history": history[::10]}, weights=learner.weights())


def _state(step: int, history: list[dict[str, float]], learner: Learner, count: LeakCount) -> dict[str, Any]:
    return {"step": step, "history": history, "learner": learner.state(), "leaks": (count.written, count.dropped)}


def _last(history: list[dict[str, float]], num: int = 20) -> Iterator[tuple[str, float]]:
    recent: list[Mapping[str, float]] = list(history[-num:])
    return ((name, sum(one[name] for one in recent) / len(recent)) for name in recent[0])
