"""What is looked at while a turn goes on: for `--trace`, and for nobody else.

Dimensions: B rows (questions), T traced rows, N thoughts, E hidden size.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from latentmas_ray.engine.fork import Ablation
from latentmas_ray.engine.lens import Lens
from latentmas_ray.engine.session import Session
from latentmas_ray.engine.trace import AgentTrace, EmbeddingMap, Thought
from latentmas_ray.engine.turn import TurnWork
from latentmas_ray.memory import Placement

MAX_FOLLOWED = 256  # tokens of a text at which the effect of memory is looked for: bounds what it costs


class TurnTracer:
    """Keeps of one turn what its traced questions are looked at with. Without any it does nothing at all."""

    def __init__(self, lens: Lens, work: TurnWork, reads: Placement, prompts: Sequence[Sequence[int]]) -> None:
        self._lens, self._work, self._reads, self._prompts = lens, work, reads, prompts
        self._rows = [row for row, name in enumerate(work.question_ids) if name in work.traced]
        self._effects: list[dict[str, float]] = [{} for _ in self._rows]
        self._thoughts: list[list[Thought]] = [[] for _ in self._rows]
        self._ablation: Ablation | None = None
        self.seen: list[Tensor] | None = [] if self._rows else None  # for `Session.think`

    @property
    def is_on(self) -> bool:
        """Whether any question of the turn is traced."""
        return bool(self._rows)

    def remember(self, session: Session) -> None:
        """Take what is needed of a session whose rows are where they were after its prompt. It is not changed."""
        if self._rows:
            room = self._work.latent_steps if self._work.thinks == "latent" else MAX_FOLLOWED
            self._ablation = Ablation(session, self._reads, self._rows, self._prompts, room)

    @torch.inference_mode()
    def look(self, output_ids: Sequence[Sequence[int]]) -> None:
        """At all thoughts together, and at what each segment of the memory does. `output_ids` are the tokens that each
        question was answered with, none if the agent thinks; what would follow the last of them nobody asks."""
        if not self._rows or self._ablation is None:
            return
        lm = self._lens.lm
        if output_ids:
            followed = [
                lm.embed(torch.tensor(output_ids[row][:-1][:MAX_FOLLOWED], dtype=torch.int64)) for row in self._rows
            ]
        else:
            hidden_TNE = self._hidden()
            thoughts = self._lens.look(hidden_TNE.flatten(0, 1))
            count = hidden_TNE.shape[1]
            self._thoughts = [thoughts[index * count : (index + 1) * count] for index in range(len(self._rows))]
            followed = list(self._lens.realign(hidden_TNE).to(lm.spec.torch_dtype))
        self._effects, self._ablation = self._ablation.effects(followed), None

    def _hidden(self) -> Tensor:
        """What the traced questions' thoughts were made from, [T, N, E]."""
        lm = self._lens.lm
        if not self.seen:
            return torch.empty(len(self._rows), 0, lm.spec.hidden_size, device=lm.device)
        return torch.stack([step_BE[self._rows] for step_BE in self.seen], dim=1)

    def embeddings(self) -> EmbeddingMap | None:
        """Where the thoughts of this batch are drawn: told once, by the last of its turns."""
        is_wanted = self._rows and self._work.is_last and self._reads.segments
        return self._lens.embedding_map if is_wanted else None

    def traces(self, texts: Sequence[str]) -> Mapping[str, AgentTrace]:
        """By question; `texts` are what the agent wrote, none if it thinks."""
        chat = self._lens.lm.chat
        return {
            self._work.question_ids[row]: AgentTrace(
                prompt=chat.show(self._prompts[row]),
                reads=tuple(placed.agent for placed in self._reads.segments),
                thoughts=tuple(self._thoughts[index]),
                text=texts[row] if texts else None,
                effects=self._effects[index],
            )
            for index, row in enumerate(self._rows)
        }
