"""The map of latent thoughts from a writer's space to a reader's, from their embeddings alone.

Dimensions: S shared tokens, V vocabulary, E hidden size (E_A of the writer, E_B of the reader).

A writer's model A gives a thought as the input embedding that it fed itself: e = c · h W_a, with the last hidden state
h, W_a = (E_outAᵀ E_outA + λI)⁻¹ E_outAᵀ E_inA (LatentMAS, arXiv 2511.20639, §3.1), and c for the usual norm. The map
that takes the *hidden state* to the input space of a reader's model B is the same regression with B's rows as its
target, over the tokens that both have (their rows are E'):

    W_AB = (E_outA'ᵀ E_outA' + λI)⁻¹ E_outA'ᵀ E_inB'

As e is sent and not h, W_AB has to follow the inverse of W_a: h ∝ e W_a⁻¹, so the thought in B is e W_a⁻¹ W_AB
(`output`). That undoes one regression by the inverse of another, and holds for one rule of making thoughts. But a
thought *is* an input embedding of A, whatever its rule, so the regression can begin in that space:

    M_AB = (E_inA'ᵀ E_inA' + λI)⁻¹ E_inA'ᵀ E_inB'      (`input`)

For tied embeddings, E_outA = E_inA and W_a = I, both are the same. c does not matter, as the result gets B's mean
embedding norm.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from latentmas_ray.models.realign import load_or_solve, solve
from latentmas_ray.models.translation.embeddings import WriterEmbeddings
from latentmas_ray.models.translation.vocabulary import SharedVocabulary

MapSpace = Literal["input", "output"]


def load_or_solve_map(
    writer: WriterEmbeddings, reader_VE: Tensor, shared: SharedVocabulary, folder: Path, reader_revision: str
) -> Tensor:
    """M_AB [E_A, E_B] in fp32, cached in `folder` by the revisions of both models and their shared tokens."""
    rows_SA, rows_SB = shared.rows(writer.input_VE, reader_VE.cpu())
    return load_or_solve(rows_SA, rows_SB, folder, f"{writer.revision}-{reader_revision}-{shared.digest}")


def solve_map(writer: WriterEmbeddings, reader_VE: Tensor, shared: SharedVocabulary, space: MapSpace) -> Tensor:
    """The map [E_A, E_B] in fp32 that begins in this space of the writer; for comparisons of the two."""
    if space == "input":
        return solve(*shared.rows(writer.input_VE, reader_VE))
    num_rows = min(len(writer.output_VE), len(writer.input_VE))
    to_input_AA = solve(writer.output_VE[:num_rows], writer.input_VE[:num_rows])
    to_reader_AB = solve(*shared.rows(writer.output_VE, reader_VE))
    matrix_AB: Tensor = torch.linalg.solve(to_input_AA.double(), to_reader_AB.double())
    return matrix_AB.float()
