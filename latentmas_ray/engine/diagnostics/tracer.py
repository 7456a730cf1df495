"""The tracer of a turn (`--trace`): measures thoughts and the effect of memory.

Dimensions: B rows (questions), T traced rows, N thoughts, E hidden size.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from latentmas_ray.engine.diagnostics.ablation import Ablation
from latentmas_ray.engine.diagnostics.alarms import find_alarms
from latentmas_ray.engine.diagnostics.guard import max_entropy, measure_thoughts
from latentmas_ray.engine.diagnostics.logit_lens import LogitLens
from latentmas_ray.engine.diagnostics.trace import AgentTrace, EmbeddingMap, Thought
from latentmas_ray.engine.session import Session
from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.memory import MergedLayout

MAX_FOLLOWED = 256  # tokens of a text at which the effect of memory is measured: bounds the cost


class TurnTracer:
    """Captures and measures the traced questions of one turn. Without traced questions it does nothing."""

    def __init__(
        self, lens: LogitLens, work: TurnRequest, reads: MergedLayout, prompts: Sequence[Sequence[int]]
    ) -> None:
        self._lens, self._work, self._reads, self._prompts = lens, work, reads, prompts
        self._rows = [row for row, name in enumerate(work.question_ids) if name in work.traced]
        self._ablation: Ablation | None = None
        self._hidden_TNE = torch.empty(0)
        self._counts: list[int] = []  # thoughts of each traced row; those after them in `_hidden_TNE` mean nothing

    @property
    def is_on(self) -> bool:
        """Whether any question of the turn is traced."""
        return bool(self._rows)

    def capture(self, session: Session, hidden_BNE: Tensor | None = None) -> None:
        """Copy what is needed of a session, whose rows must be in the order of its prompts. It is not changed.
        `hidden_BNE` are the hidden states of the thoughts before realignment."""
        if self._rows:
            num_new = self._work.latent_steps if self._work.thinks == "latent" else MAX_FOLLOWED
            self._ablation = Ablation(session, self._reads, self._rows, self._prompts, num_new)
            self._hidden_TNE = torch.empty(0) if hidden_BNE is None else hidden_BNE[self._rows]
            self._counts = [session.num_thoughts[row] for row in self._rows]

    @torch.inference_mode()
    def inspect(self, outputs: Mapping[int, Sequence[int]], texts: Mapping[str, str]) -> dict[str, AgentTrace]:
        """Measure all thoughts and the effect of each segment; return the traces by question, with the alarms about
        thoughts (those about memory: `runs.traces.judge_memory`).

        `outputs` are the decoded tokens by row, `texts` their texts by question.
        """
        if not self._rows or self._ablation is None:
            return {}
        if self._work.thinks == "latent":
            thoughts = self._thoughts()
            stats = measure_thoughts(self._lens, self._hidden_TNE, thoughts, counts=self._counts)
            alarms = [find_alarms(row, max_entropy=max_entropy(self._lens)) for row in stats]
            dtype = self._lens.lm.spec.torch_dtype
            fed_TNE = self._lens.realign(self._hidden_TNE).to(dtype)
            effects = self._ablation.effects([row[:count] for row, count in zip(fed_TNE, self._counts, strict=True)])
        else:
            thoughts, alarms = [[] for _ in self._rows], [() for _ in self._rows]
            effects = self._ablation.effects([self._written(outputs[row]) for row in self._rows])
        self._ablation = None
        return {
            self._work.question_ids[row]: AgentTrace(
                prompt=self._lens.lm.chat.show(self._prompts[row]),
                reads=tuple(placed.agent for placed in self._reads.segments),
                thoughts=tuple(seen),
                text=texts.get(self._work.question_ids[row]),
                effects=effect,
                alarms=found,
            )
            for row, seen, found, effect in zip(self._rows, thoughts, alarms, effects, strict=True)
        }

    def _thoughts(self) -> list[list[Thought]]:
        """The thoughts of each traced question."""
        thoughts = self._lens.inspect(self._hidden_TNE.flatten(0, 1))
        count = self._hidden_TNE.shape[1]
        return [thoughts[index * count :][:own] for index, own in enumerate(self._counts)]

    def _written(self, token_ids: Sequence[int]) -> Tensor:
        """The embeddings of a text's tokens except the last, after which no token follows."""
        return self._lens.lm.embed(torch.tensor(token_ids[:-1][:MAX_FOLLOWED], dtype=torch.int64))

    def embeddings(self) -> EmbeddingMap | None:
        """The plane for the plot of this batch's thoughts; only from its last turn."""
        is_wanted = self._rows and self._work.is_last and self._reads.segments
        return self._lens.embedding_map if is_wanted else None
