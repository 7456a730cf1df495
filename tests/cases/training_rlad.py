"""Players of the RLAD study without Ray: the same learners and worker, in this process."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from examples.training.rlad.actors.learner import Learner, PolicyText
from examples.training.rlad.actors.rollouts import DrawnText, PromptToSample, RolloutWorker
from examples.training.rlad.losses import GradientSettings
from examples.training.rlad.task.prompts import POLICIES


class LocalPlayers:
    """Calls learners and a worker directly; weights are pushed before every draw."""

    def __init__(self, weights: Mapping[str, Mapping[str, Tensor]], seed: int, cache_dir: str) -> None:
        self.learners = {role: Learner(role, seed, weights[role]) for role in POLICIES}
        self._worker = RolloutWorker(cache_dir)
        self._version = 0

    def draw(
        self, role: str, prompts: Sequence[PromptToSample], *, num: int, temperature: float, seed: int
    ) -> list[list[DrawnText]]:
        self._version += 1
        self._worker.set_weights(role, self._version, self.learners[role].weights())
        return self._worker.draw(role, self._version, prompts, num=num, temperature=temperature, seed=seed)

    def fit(self, role: str, texts: Sequence[PolicyText], rate: float) -> dict[str, float]:
        return self.learners[role].fit(texts, rate)

    def improve(
        self, role: str, texts: Sequence[PolicyText], settings: GradientSettings, *, num_batches: int, seed: int
    ) -> dict[str, float]:
        return self.learners[role].improve(texts, settings, num_batches=num_batches, seed=seed)

    def state(self) -> dict[str, Any]:
        return {role: learner.state() for role, learner in self.learners.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        for role, learner in self.learners.items():
            learner.load(state[role])

    def cpu_seconds(self) -> float:
        return 0.0
