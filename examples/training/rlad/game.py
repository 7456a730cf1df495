"""The alternation: the abstraction agent proposes and is fitted to what helped, then the solver is improved.

A round has three phases: `propose` draws hints and tries them, `fit` fits the abstraction agent to those that were
kept (rejection fine-tuning), and `solve` improves the solver by the policy gradient. One policy is fixed while the
other is trained. Everything random comes from the seed and the number of the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any, Literal, NamedTuple

from examples.training.rlad.actors.learner import PolicyText
from examples.training.rlad.actors.players import PolicyPair
from examples.training.rlad.actors.rollouts import DrawnText, PromptToSample
from examples.training.rlad.rewards import HintTrial, hits, solver_texts, trial_of, verdicts
from examples.training.rlad.settings import PlaySettings
from examples.training.rlad.task.machine import MachineProblem, make_machine
from examples.training.rlad.task.prompts import HINTER, SOLVER, hint_alone_prompt, hinter_prompt, solver_prompt
from examples.training.rlad.warm_start import leaks, warm_rate

PhaseName = Literal["propose", "fit", "solve"]
_TEMPERATURE = 1.0


class GameStep(NamedTuple):
    """One step of the schedule."""

    round: int
    phase: PhaseName
    number: int  # within the phase of this round


def schedule(settings: PlaySettings) -> list[GameStep]:
    """Return all steps in their order."""
    sizes: dict[PhaseName, int] = {
        "propose": settings.propose_steps,
        "fit": settings.fit_steps,
        "solve": settings.solve_steps,
    }
    return [
        GameStep(turn, phase, number)
        for turn in range(settings.num_rounds)
        for phase, size in sizes.items()
        for number in range(size)
    ]


class Game:
    """Plays the schedule. `bare` is the control: the solver alone is rewarded, for answers without a hint."""

    def __init__(self, settings: PlaySettings, players: PolicyPair, seed: int, *, bare: bool = False) -> None:
        self._settings, self._players, self._seed, self._bare = settings, players, seed, bare
        self._steps = [step for step in schedule(settings) if step.phase == "solve" or not bare]
        self._done = 0
        self._kept: list[PolicyText] = []  # hints of this round
        self._earlier_cpu_seconds = 0.0
        self.history: list[dict[str, Any]] = []

    @property
    def is_over(self) -> bool:
        return self._done == len(self._steps)

    def advance(self) -> None:
        """Play the next step."""
        step = self._steps[self._done]
        rng = Random(f"{self._seed} {step}")
        figures = {"propose": self._propose, "fit": self._fit, "solve": self._solve}[step.phase](step, rng)
        self.history.append({**step._asdict(), **figures})
        self._done += 1

    def _propose(self, step: GameStep, rng: Random) -> dict[str, float]:
        """Draw hints, try each with the fixed solver, and keep those that help and do not leak."""
        settings = self._settings
        if step.number == 0:
            self._kept = []
        problems = self._problems(rng, settings.propose_problems)
        hints = self._hints(step, problems, settings.num_hints)
        bare = self._answers("bare", step, problems, [""] * len(problems), settings.num_answers)
        flat = [(problem, hint) for problem, own in zip(problems, hints, strict=True) for hint in own]
        answers = self._answers(
            "try", step, [one for one, _ in flat], [hint.text for _, hint in flat], settings.num_answers
        )
        right_bare = [verdicts(problem, texts) for problem, texts in zip(problems, bare, strict=True)]
        trials = [
            trial_of(
                hint,
                verdicts(problem, answers[index]),
                right_bare[index // settings.num_hints],
                has_gold=leaks(problem, hint.text),
            )
            for index, (problem, hint) in enumerate(flat)
        ]
        trials, by_chance = self._try_blind(step, [problem for problem, _ in flat], trials)
        kept = [trial for trial in trials if trial.is_kept(settings.margin)]
        self._kept += [trial.hint.learned for trial in kept]
        return {
            "success": _mean([trial.success for trial in trials]),
            "bare_success": _mean([trial.bare_success for trial in trials]),
            "has_gold": _mean([trial.has_gold for trial in trials]),
            "better": _mean([trial.is_better(settings.margin) for trial in trials]),
            "kept": len(kept) / len(trials),
            "blind_hits_by_chance": by_chance,
        }

    def _try_blind(
        self, step: GameStep, problems: Sequence[MachineProblem], trials: Sequence[HintTrial]
    ) -> tuple[list[HintTrial], float]:
        """Try the promising hints without their problems. Return all trials, and the share of those hints that hit the
        gold of another problem: what the rule drops by chance."""
        places = [index for index, trial in enumerate(trials) if trial.is_better(self._settings.margin)]
        if not places:
            return list(trials), 0.0
        prompts = [
            PromptToSample(f"blind {_code(step)} {index}", hint_alone_prompt(trials[index].hint.text))
            for index in places
        ]
        drawn = self._draw(SOLVER, prompts, self._settings.leak_tries)
        found = list(trials)
        for index, texts in zip(places, drawn, strict=True):
            found[index] = replace(trials[index], num_blind_hits=sum(hits(problems[index], texts)))
        others = [problems[after] for _, after in pairwise([*places, places[0]])]
        by_chance = [any(hits(other, texts)) for other, texts in zip(others, drawn, strict=True)]
        return found, _mean(by_chance)

    def _fit(self, step: GameStep, rng: Random) -> dict[str, float]:
        """Fit the abstraction agent to a part of the kept hints: in a new order each time all have been used."""
        size = self._settings.fit_batch
        if not self._kept:
            return {"fitted": 0.0}
        batch: list[PolicyText] = []
        for place in range(step.number * size, (step.number + 1) * size):
            epoch, index = divmod(place, len(self._kept))
            order = Random(f"{self._seed} {step.round} {epoch}").sample(range(len(self._kept)), len(self._kept))
            batch.append(self._kept[order[index]])
        rate = self._settings.fit_rate * warm_rate(step.number, self._settings.fit_steps)
        return {**self._players.fit(HINTER, batch, rate), "fitted": len(batch)}

    def _solve(self, step: GameStep, rng: Random) -> dict[str, float]:
        """Improve the solver on problems with a hint of the fixed abstraction agent, and some without."""
        settings = self._settings
        problems = self._problems(rng, settings.solve_problems)
        has_hint = [not self._bare and (index + 1) % settings.bare_every != 0 for index in range(len(problems))]
        hints = [""] * len(problems) if self._bare else [own[0].text for own in self._hints(step, problems, 1)]
        shown = [hint if has else "" for hint, has in zip(hints, has_hint, strict=True)]
        groups = self._answers("solve", step, problems, shown, settings.num_samples)
        correct = [verdicts(problem, texts) for problem, texts in zip(problems, groups, strict=True)]
        is_rewarded = [True] * len(problems) if self._bare else has_hint
        texts = solver_texts(groups, correct, is_rewarded)
        seed = rng.randrange(2**31)
        figures = self._players.improve(SOLVER, texts, settings.gradient, num_batches=settings.num_batches, seed=seed)
        with_hint = [right for own, has in zip(correct, has_hint, strict=True) if has for right in own]
        without = [right for own, has in zip(correct, has_hint, strict=True) if not has for right in own]
        return {
            **figures,
            **({"success": _mean(with_hint)} if with_hint else {}),
            **({"bare_success": _mean(without)} if without else {}),
        }

    def _problems(self, rng: Random, num: int) -> list[MachineProblem]:
        return [make_machine(rng, "train") for _ in range(num)]

    def _hints(self, step: GameStep, problems: Sequence[MachineProblem], num: int) -> list[list[DrawnText]]:
        prompts = [
            PromptToSample(f"hint {_code(step)} {index}", hinter_prompt(problem.question))
            for index, problem in enumerate(problems)
        ]
        return self._draw(HINTER, prompts, num)

    def _answers(
        self, name: str, step: GameStep, problems: Sequence[MachineProblem], hints: Sequence[str], num: int
    ) -> list[list[DrawnText]]:
        prompts = [
            PromptToSample(f"{name} {_code(step)} {index}", solver_prompt(problem.question, hint))
            for index, (problem, hint) in enumerate(zip(problems, hints, strict=True))
        ]
        return self._draw(SOLVER, prompts, num)

    def _draw(self, role: str, prompts: Sequence[PromptToSample], num: int) -> list[list[DrawnText]]:
        return self._players.draw(role, prompts, num=num, temperature=_TEMPERATURE, seed=self._seed)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of the actors, those before an interruption included."""
        return self._earlier_cpu_seconds + self._players.cpu_seconds()

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on."""
        return {
            "done": self._done,
            "kept": [[list(text.prompt), list(text.output)] for text in self._kept],
            "history": self.history,
            "players": self._players.state(),
            "cpu_seconds": self.cpu_seconds(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue after the steps of `state`."""
        self._done, self.history = state["done"], list(state["history"])
        self._kept = [PolicyText(*values) for values in state["kept"]]
        self._earlier_cpu_seconds = state["cpu_seconds"]
        self._players.load(state["players"])


def _code(step: GameStep) -> str:
    return f"{step.round}-{step.phase}-{step.number}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
