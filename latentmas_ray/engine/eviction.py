"""Eviction: an agent hands over only a share of its prompt's positions, those to which most attention was paid.

The mass of position t of the prompt is Σ_l Σ_h Σ_i a_lhi(t)², a the attention that observing tokens i pay to it in
layer l and head h, smoothed over neighbouring positions. The positions with the largest mass are kept: the rule of
SnapKV (Li et al. 2024, arXiv 2404.14469, section 4), whose observers are the last tokens of a prompt. Differences:
squares; one choice for all heads, and by default for all layers (the mass is the sum over them), so that memory stays
one tensor; the attention sink is always kept (Xiao et al. 2023, arXiv 2309.17453); and the observers may be a reader's
prompt. Everything after the prompt is kept. No position changes, and nothing is trained.

Where every layer has a sliding window, `by="window"` keeps what a reader can see: exact, and no share is chosen.

Dimensions: L layers, T tokens of a prompt.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from latentmas_ray.engine.session import Session
from latentmas_ray.engine.turn import KeepRule, TurnRequest
from latentmas_ray.memory.layer_spec import Ranges
from latentmas_ray.models.attention import AttentionMass
from latentmas_ray.models.sampling import uniform
from latentmas_ray.units import share_of

NUM_SINKS = 1  # first tokens of a prompt, which are always kept
NUM_OBSERVERS = 16  # last tokens of a prompt, whose attention counts
NUM_NEIGHBOURS = 5  # positions over which the mass is averaged


class Eviction:
    """The choice of one turn. Call order: `prefill`, then `watch_thoughts` around the latent steps."""

    def __init__(self, session: Session, work: TurnRequest, prompts: Sequence[Sequence[int]]) -> None:
        """`prompts` are the turn's own, as token ids. Without `work.keep` everything is kept, and nothing is
        computed."""
        self._session, self._work, self._prompts = session, work, prompts
        self._starts = list(session.cache.lengths)  # the slots of the prompts' first tokens
        self._observed: AttentionMass | None = None

    def prefill(self) -> None:
        """Read the prompts. Chooses, unless the thoughts do. Raises like `Session.prefill`."""
        session, rule = self._session, self._work.keep
        if rule is None:
            session.prefill(self._prompts)
            return
        if rule.by == "window":
            session.prefill(self._prompts)
            self._keep_seen()
            return
        if rule.by in ("prompt", "thoughts"):
            ends = [start + len(ids) for start, ids in zip(self._starts, self._prompts, strict=True)]
            self._observed = AttentionMass([max(0, end - NUM_OBSERVERS) for end in ends])
        with session.cache.watched(self._observed):
            session.prefill(self._prompts)
        if rule.by == "reader":
            self._keep(rule, self._mass_of_readers(rule))
        elif rule.by == "random":
            self._keep(rule, self._random_mass())
        elif rule.by == "prompt":
            self._keep(rule, self._mass())

    @contextmanager
    def watch_thoughts(self) -> Iterator[None]:
        """Context of the turn's latent steps; chooses at its end if the thoughts do."""
        rule = self._work.keep
        if rule is None or rule.by != "thoughts":
            yield
            return
        with self._session.cache.watched(self._observed):
            yield
        self._keep(rule, self._mass())

    def _keep(self, rule: KeepRule, masses: Sequence[Tensor]) -> None:
        """Make the choice from each question's mass [L, T] of this rank's heads, or [1, T]."""
        if rule.layers == "shared":
            masses = [mass_LT.sum(0, keepdim=True) for mass_LT in masses]
        lengths = list(map(len, self._prompts))
        # The heads of all ranks count, and all ranks must keep the same positions.
        summed_LT = self._session.lm.ranks.sum(torch.cat(list(masses), dim=1))
        by_question = [choose(mass_LT, rule.share) for mass_LT in summed_LT.split(lengths, dim=1)]
        num_layers = self._session.lm.spec.num_layers
        by_layer = [list(layer) for layer in zip(*by_question, strict=True)]
        self._session.keep(by_layer * num_layers if len(by_layer) == 1 else by_layer)

    def _keep_seen(self) -> None:
        """Keep the last W − 1 positions of each prompt, W the largest window of a layer: a reader begins at or after
        the prompt's end in every merge, and a token at p sees positions above p − W. All, if a layer has no window."""
        spec = self._session.lm.spec
        windows = [layer.window for layer in spec.layers if layer.slot_tensors]
        if any(window is None for window in windows):
            return
        most = max(1, max(window for window in windows if window is not None) - 1)
        choice = [((max(0, len(ids) - most), len(ids)),) for ids in self._prompts]
        self._session.keep([choice] * spec.num_layers)

    def _mass(self, observed: AttentionMass | None = None) -> list[Tensor]:
        """What the observers paid to each question's prompt, [L, T]."""
        mass = observed or self._observed
        assert mass is not None, "no attention was observed"
        spans = enumerate(zip(self._starts, self._prompts, strict=True))
        return [mass.of_slots(row, start, len(ids)) for row, (start, ids) in spans]

    def _mass_of_readers(self, rule: KeepRule) -> list[Tensor]:
        """The attention of the readers' prompts, as if each followed this one: [L, T] of each question. Each reader
        counts the same, however long its prompt is."""
        session, encode = self._session, self._session.lm.chat.encode
        masses = [torch.zeros(session.lm.spec.num_layers, len(ids)) for ids in self._prompts]
        for prompts in rule.readers:
            fed = [encode(prompt.messages, prompt.template, prompt.suffix) for prompt in prompts]
            observed = AttentionMass(session.cache.lengths)
            session.preview(fed, observed)
            masses = [
                mass_LT + more_LT / len(ids)
                for mass_LT, more_LT, ids in zip(masses, self._mass(observed), fed, strict=True)
            ]
        return masses

    def _random_mass(self) -> list[Tensor]:
        """A mass by chance, [1, T]: the control of all choices."""
        work, of = self._work, f"{self._work.agent} keeps"
        return [
            torch.tensor([[uniform(work.sampling.seed, question, of, step) for step in range(len(ids))]])
            for question, ids in zip(work.question_ids, self._prompts, strict=True)
        ]


def choose(mass_LT: Tensor, share: float) -> tuple[Ranges, ...]:
    """The positions of one prompt that each layer keeps, as ranges: ⌈share · T⌉ of them, the sinks first, then those
    with the largest smoothed mass, the earlier of two that are equal. A mass that is not finite counts as none."""
    num_tokens = mass_LT.shape[1]
    num_kept = share_of(share, num_tokens)
    finite_LT = torch.nan_to_num(mass_LT.double(), nan=0.0, posinf=0.0)
    smooth_LT = avg_pool1d(
        finite_LT[:, None], NUM_NEIGHBOURS, stride=1, padding=NUM_NEIGHBOURS // 2, count_include_pad=False
    )[:, 0]
    smooth_LT[:, :NUM_SINKS] = torch.inf
    order_LT = smooth_LT.argsort(dim=1, descending=True, stable=True)
    return tuple(_as_ranges(sorted(kept)) for kept in order_LT[:, :num_kept].tolist())


def _as_ranges(tokens: Sequence[int]) -> Ranges:
    """Tokens in order as ranges with gaps."""
    ranges: list[tuple[int, int]] = []
    for token in tokens:
        if ranges and ranges[-1][1] == token:
            ranges[-1] = (ranges[-1][0], token + 1)
        else:
            ranges.append((token, token + 1))
    return tuple(ranges)
