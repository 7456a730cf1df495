"""Trains a map of thoughts between two frozen models.

Dimensions: N thoughts, B rows, T tokens, E hidden size (E_A of the writer, E_B of the reader).

`words`: the writer's thought e of a text stands for a word w of that text, its nearest embedding. The map is the
regression from thoughts to the reader's embeddings of these words, over thoughts as they occur, where the map that
needs no training has every word of both vocabularies once. It solves what RecursiveMAS (arXiv 2604.25917) trains step
by step with 1 − cos(R(h), e'), and here the solution is known in closed form:

    M = (Σ eᵀe + w E_A'ᵀE_A' + λI)⁻¹ (Σ eᵀ E_B[w] + w E_A'ᵀE_B')

with the rows E' of the words of both vocabularies, weighted little, for words that do not occur.

`answers`: the negative log-likelihood of the reader's answers, back through its reading of the translated thoughts,
once with the prompts and once with thoughts alone, in turn.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from examples.training.adapters.pairs import PairBatch, PairSource
from examples.training.adapters.settings import AdapterSettings
from examples.training.studies.cell import CellResult, CellRun
from latentmas_ray.models.translation import stored_revision

_RIDGE = 0.1
_VOCABULARY_WEIGHT = {"words": 0.1, "both": 0.1, "unseen": 10.0}  # w: of words that do not occur
_RATE = {"answers": 0.1, "both": 0.02}  # of AdamW, times the standard deviation of the first map's entries
_WARM_UP = 10
_LEAST_RATE = 0.05
_ALONE_EVERY = 4  # one step of so many has the prompts, too
_CHECK_SEED = 1_000_000  # of batches that no map is trained on
_NUM_CHECKS = 4


def train_map(run: CellRun) -> CellResult:
    """Train the map of a cell; `both` starts from the map of the cell that it comes after."""
    settings = AdapterSettings.of(run.cell.settings)
    source = PairSource(settings)
    losses: list[float] = []
    if settings.kind in ("words", "unseen"):
        matrix_AB = fit_words(source, run.cell.seed)
    else:
        first_AB = run.start["matrix"] if run.cell.after else source.translator.matrix_AB
        matrix_AB, losses = fit_answers(source, run, first_AB)
    figures: dict[str, Any] = {
        "writer_revision": stored_revision(settings.writer),
        "reader_revision": stored_revision(settings.reader),
        "losses": losses,
        **{f"free_{name}": value for name, value in check(source, source.translator.matrix_AB).items()},
        **check(source, matrix_AB),
    }
    return CellResult(figures=figures, weights={"matrix": matrix_AB})


def fit_words(source: PairSource, seed: int) -> Tensor:
    """Return the regression [E_A, E_B] from thoughts to the reader's words; products and solution in fp64."""
    settings = source.settings
    rows_SA, rows_SB = (rows.double() for rows in source.shared.rows(*source.embeddings))
    weight = _VOCABULARY_WEIGHT[settings.kind]
    gram_AA = weight * rows_SA.T @ rows_SA
    cross_AB = weight * rows_SA.T @ rows_SB
    for index in range(settings.num_batches):
        thoughts_NA, words_NB = (part.double() for part in source.words_of(source.batch(seed, index).thoughts_NE))
        gram_AA += thoughts_NA.T @ thoughts_NA
        cross_AB += thoughts_NA.T @ words_NB
    gram_AA.diagonal().add_(_RIDGE)
    matrix_AB: Tensor = torch.linalg.solve(gram_AA, cross_AB)
    return matrix_AB.float().contiguous()


def fit_answers(source: PairSource, run: CellRun, first_AB: Tensor) -> tuple[Tensor, list[float]]:
    """Return a map trained from `first_AB`, and the loss of each step."""
    settings, seed = source.settings, run.cell.seed
    matrix_AB = first_AB.clone().requires_grad_()
    rate = _RATE[settings.kind] * float(first_AB.std())
    optimizer = torch.optim.AdamW([matrix_AB], lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    losses: list[float] = []
    if run.resumed is not None:
        with torch.no_grad():
            matrix_AB.copy_(run.resumed["matrix"])
        optimizer.load_state_dict(run.resumed["optimizer"])
        losses = list(run.resumed["losses"])
    while (step := len(losses)) < settings.num_steps:
        left = 1 - step / settings.num_steps
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / _WARM_UP, max(left, _LEAST_RATE))
        batch = source.batch(seed, step)
        loss, _ = answer_loss(source, batch, matrix_AB, alone=step % _ALONE_EVERY != 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(round(loss.item(), 5))
        run.save(
            lambda: {"matrix": matrix_AB.detach().clone(), "optimizer": optimizer.state_dict(), "losses": list(losses)}
        )
    return matrix_AB.detach().clone(), losses


def answer_loss(source: PairSource, batch: PairBatch, matrix_AB: Tensor, *, alone: bool) -> tuple[Tensor, float]:
    """Return the mean negative log-likelihood of an answer's token, and the share of answers whose every token is the
    likeliest one. The reader sees thoughts alone, or prompts and thoughts."""
    model, rows = source.reader.model, batch.rows
    hidden_BTE = model.get_decoder()(
        inputs_embeds=_embeds(source, batch, matrix_AB),
        position_ids=rows.positions_BT,
        attention_mask=batch.visible(alone=alone)[:, None],
        use_cache=False,
    ).last_hidden_state
    is_target = rows.targets_BT >= 0
    logits = model.get_output_embeddings()(hidden_BTE[is_target]).float()
    targets = rows.targets_BT[is_target]
    row_BT = torch.arange(len(rows.ids_BT))[:, None] * 10_000 + rows.own_BT
    _, answers = row_BT[is_target].unique(return_inverse=True)
    is_right = (logits.argmax(-1) == targets).long()
    whole = torch.ones(int(answers.max()) + 1, dtype=torch.long).scatter_reduce(0, answers, is_right, "amin")
    return cross_entropy(logits, targets), float(whole.float().mean())


def check(source: PairSource, matrix_AB: Tensor) -> dict[str, float]:
    """Return what a map gives on batches that none is trained on, with thoughts alone: the loss, and the share of whole
    answers that are likeliest token by token."""
    with torch.no_grad():
        found = [
            answer_loss(source, source.batch(_CHECK_SEED, index), matrix_AB, alone=True) for index in range(_NUM_CHECKS)
        ]
    losses, shares = zip(*found, strict=True)
    return {"loss": round(float(sum(losses)) / len(losses), 4), "whole": round(sum(shares) / len(shares), 4)}


def _embeds(source: PairSource, batch: PairBatch, matrix_AB: Tensor) -> Tensor:
    """The reader's input embeddings [B, T, E_B]: words, and mapped thoughts as the runtime feeds them."""
    words_BTE = source.reader.embed(batch.rows.ids_BT)
    mapped_NB = source.translator.target_norm * normalize(batch.thoughts_NE @ matrix_AB, dim=-1)
    embeds_BTE: Tensor = words_BTE.masked_scatter(batch.rows.soft_BT.bool()[..., None], mapped_NB.to(words_BTE.dtype))
    return embeds_BTE
