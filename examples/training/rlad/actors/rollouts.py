"""Rollout workers: both policies on the project's engine, which writes hints and answers. A Ray actor is one.

They get new weights through the object store, and say with every result with which version it was drawn.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from examples.training.rlad.actors.learner import PolicyText
from examples.training.rlad.policy import SHAPES, make_tokenizer
from examples.training.rlad.task.prompts import POLICIES
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import Prompt, SampleText, Sampling, TurnRequest
from latentmas_ray.models.compat import wrap

_MAX_NEW_TOKENS = 16  # the longest text of a teacher has 12


@dataclass(frozen=True)
class PromptToSample:
    """A prompt of a policy. `id` names its random numbers: equal ids and seeds give equal texts."""

    id: str
    text: str


@dataclass(frozen=True)
class DrawnText:
    """A text that a policy wrote, and what its learner needs of it."""

    text: str
    learned: PolicyText
    has_ended: bool


class RolloutWorker:
    """Draws texts of both policies."""

    def __init__(self, cache_dir: str) -> None:
        """`cache_dir` is where the engine keeps its matrices."""
        torch.set_num_threads(1)
        tokenizer = make_tokenizer()
        self._end: int = tokenizer.eos_token_id
        self._runners = {
            role: TurnRunner(
                Engine(wrap(SHAPES[role].first_model(tokenizer, 0), tokenizer, role), cache_dir=Path(cache_dir))
            )
            for role in POLICIES
        }
        self._versions = dict.fromkeys(POLICIES, -1)

    def set_weights(self, role: str, version: int, weights: Mapping[str, Tensor]) -> None:
        """Replace a policy's weights."""
        self._runners[role].engine.lm.model.load_state_dict(dict(weights))
        self._versions[role] = version

    def draw(
        self, role: str, version: int, prompts: Sequence[PromptToSample], *, num: int, temperature: float, seed: int
    ) -> list[list[DrawnText]]:
        """Return `num` texts of the policy for each prompt. `version` is that of the weights that it has to have."""
        assert self._versions[role] == version, (role, self._versions[role], version)
        runner = self._runners[role]
        request = TurnRequest(
            agent=role,
            batch=0,
            question_ids=tuple(prompt.id for prompt in prompts),
            prompts=tuple(Prompt(messages=({"role": "user", "content": prompt.text},)) for prompt in prompts),
            thinks="text",
            sampling=Sampling(temperature=temperature, max_new_tokens=_MAX_NEW_TOKENS, seed=seed),
            samples=num,
            is_last=True,
        )
        _, result = runner.run(request, {})
        encode = runner.engine.lm.chat.encode
        return [
            [self._drawn(encode(prompt.messages, {}, ""), text) for text in result.texts_of(index)]
            for index, prompt in enumerate(request.prompts)
        ]

    def _drawn(self, prompt: Sequence[int], text: SampleText) -> DrawnText:
        has_ended = text.cut_off == "no"
        output = (*text.token_ids, self._end) if has_ended else text.token_ids
        return DrawnText(text.text, PolicyText(prompt, output), has_ended)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of this process."""
        return time.process_time()
