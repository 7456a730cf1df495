"""The two policies as Ray actors: one learner each, and workers that draw texts of both.

A learner's new weights are one object in the object store, which every worker reads; they never pass through the
process that calls. Actors hold no CPU of their own: the study's task that starts them has one, and waits for them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from types import TracebackType
from typing import Any, Protocol, Self

import ray
from torch import Tensor

from examples.training.rlad.actors.learner import Learner, PolicyText
from examples.training.rlad.actors.rollouts import DrawnText, PromptToSample, RolloutWorker
from examples.training.rlad.losses import GradientSettings
from examples.training.rlad.task.prompts import POLICIES
from examples.training.studies.on_core import wait_on_core


class PolicyPair(Protocol):
    """Both policies, as a game sees them: `Players`, or the same without Ray in tests."""

    def draw(
        self, role: str, prompts: Sequence[PromptToSample], *, num: int, temperature: float, seed: int
    ) -> list[list[DrawnText]]:
        """Return `num` texts of a policy for each prompt, as it is now."""

    def fit(self, role: str, texts: Sequence[PolicyText], rate: float) -> dict[str, float]:
        """Take a supervised step; return its figures."""

    def improve(
        self, role: str, texts: Sequence[PolicyText], settings: GradientSettings, *, num_batches: int, seed: int
    ) -> dict[str, float]:
        """Take steps of the policy gradient; return their figures."""

    def state(self) -> dict[str, Any]:
        """Return what the learners need to continue."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of the actors since they began."""


class Players:
    """Learners and workers of the two policies. A context manager: the actors end with it."""

    def __init__(self, weights: Mapping[str, Mapping[str, Tensor]], seed: int, num_workers: int) -> None:
        """`weights` are those at which each policy begins; its KL is measured from them."""
        cache = str(Path(gettempdir()) / "latentmas-rlad")
        learner, worker = ray.remote(num_cpus=0)(Learner), ray.remote(num_cpus=0)(RolloutWorker)
        self._learners = {role: learner.remote(role, seed, dict(weights[role])) for role in POLICIES}
        self._workers = [worker.remote(cache) for _ in range(num_workers)]
        self._versions = dict.fromkeys(POLICIES, 0)
        self._is_new = dict.fromkeys(POLICIES, True)  # whether the workers still have older weights

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in (*self._learners.values(), *self._workers):
            ray.kill(actor)

    def draw(
        self, role: str, prompts: Sequence[PromptToSample], *, num: int, temperature: float, seed: int
    ) -> list[list[DrawnText]]:
        """Return `num` texts of a policy for each prompt, as it is now. The workers share the prompts."""
        if self._is_new[role]:
            self._push(role)
        size = -(-len(prompts) // len(self._workers))
        parts = [prompts[first : first + size] for first in range(0, len(prompts), size)]
        version = self._versions[role]
        drawn = [
            worker.draw.remote(role, version, part, num=num, temperature=temperature, seed=seed)
            for worker, part in zip(self._workers, parts, strict=False)
        ]
        return [texts for part in map(wait_on_core, drawn) for texts in part]

    def fit(self, role: str, texts: Sequence[PolicyText], rate: float) -> dict[str, float]:
        """Take a supervised step; return its figures."""
        figures: dict[str, float] = wait_on_core(self._learners[role].fit.remote(texts, rate))
        self._is_new[role] = True
        return figures

    def improve(
        self, role: str, texts: Sequence[PolicyText], settings: GradientSettings, *, num_batches: int, seed: int
    ) -> dict[str, float]:
        """Take steps of the policy gradient; return their figures."""
        step = self._learners[role].improve.remote(texts, settings, num_batches=num_batches, seed=seed)
        figures: dict[str, float] = wait_on_core(step)
        self._is_new[role] = True
        return figures

    def _push(self, role: str) -> None:
        """Give every worker the learner's weights, as a new version."""
        self._versions[role] += 1
        weights = self._learners[role].weights.remote()
        for done in [worker.set_weights.remote(role, self._versions[role], weights) for worker in self._workers]:
            wait_on_core(done)
        self._is_new[role] = False

    def weights(self, role: str) -> dict[str, Tensor]:
        """Return a policy's weights."""
        found: dict[str, Tensor] = wait_on_core(self._learners[role].weights.remote())
        return found

    def state(self) -> dict[str, Any]:
        """Return what the learners need to continue."""
        return {role: wait_on_core(learner.state.remote()) for role, learner in self._learners.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        for role, learner in self._learners.items():
            wait_on_core(learner.load.remote(state[role]))
            self._is_new[role] = True

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all actors since they began."""
        actors = (*self._learners.values(), *self._workers)
        return float(sum(map(wait_on_core, [actor.cpu_seconds.remote() for actor in actors])))
