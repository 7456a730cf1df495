"""Realignment: from the last hidden state to the space of input embeddings (LatentMAS, arXiv 2511.20639, §3.1).

Dimensions: B rows, E hidden size, V vocabulary.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from latentmas_ray.paths import replacement_of

RIDGE = 1e-5
_CHUNK = 16_384  # vocabulary rows at a time: bounds the fp32 copies of two embedding matrices
_MIN_NORM = 1e-6
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Realignment:
    """h → h W_a, rescaled to the mean norm of the input embeddings. `matrix_EE` None stands for W_a = I."""

    matrix_EE: Tensor | None
    target_norm: float

    def __call__(self, hidden_BE: Tensor) -> Tensor:
        """The latent thoughts of hidden states, in fp32, [B, E]."""
        embeds_BE = self.map(hidden_BE)
        norm_B1: Tensor = embeds_BE.norm(dim=-1, keepdim=True).clamp_min(_MIN_NORM)
        return embeds_BE * (self.target_norm / norm_B1)

    def map(self, hidden_BE: Tensor) -> Tensor:
        """h W_a in fp32, before rescaling."""
        embeds_BE = hidden_BE.float()
        return embeds_BE if self.matrix_EE is None else embeds_BE @ self.matrix_EE


def mean_norm(embeddings_VE: Tensor) -> float:
    """mean_v ‖E[v]‖ in fp32."""
    norms = [chunk.float().norm(dim=-1) for chunk in embeddings_VE.split(_CHUNK)]
    return float(torch.cat(norms).mean())


def solve(output_VE: Tensor, input_VE: Tensor) -> Tensor:
    """W_a = (E_outᵀ E_out + λI)⁻¹ E_outᵀ E_in, λ = 1e-5; fp32 [E_out's E, E_in's E], products and solution in fp64."""
    size = output_VE.shape[1]
    gram = torch.zeros(size, size, dtype=torch.float64, device=output_VE.device)
    cross = gram.new_zeros(size, input_VE.shape[1])
    for out_chunk, in_chunk in zip(output_VE.split(_CHUNK), input_VE.split(_CHUNK), strict=True):
        rows = out_chunk.double()
        gram += rows.T @ rows
        cross += rows.T @ in_chunk.to(rows.device).double()
    gram.diagonal().add_(RIDGE)
    matrix_EE: Tensor = torch.linalg.solve(gram, cross)
    # The solution is stored by columns, a file's matrix by rows, and products with the two round differently: the first
    # run would answer differently from runs that read the file.
    return matrix_EE.float().contiguous()


def load_or_solve(output_VE: Tensor, input_VE: Tensor, folder: Path, revision: str) -> Tensor:
    """`solve`, cached in `folder` by the weights' revision. A file that cannot be read is replaced."""
    path = folder / f"realign-{revision}.safetensors"
    try:
        matrix: Tensor = load_file(path)["matrix"]
        is_ours = matrix.shape == (output_VE.shape[1], input_VE.shape[1]) and matrix.dtype == torch.float32
        if is_ours and bool(matrix.isfinite().all()):
            return matrix.to(output_VE.device)
        _log.warning("realignment matrix %s has the wrong shape, dtype or values: computing it again", path)
    except FileNotFoundError:
        pass
    except (OSError, KeyError, SafetensorError) as error:
        _log.warning("realignment matrix %s cannot be read (%s): computing it again", path, error)
    matrix = solve(output_VE, input_VE)
    _store(matrix, path)
    return matrix


def _store(matrix: Tensor, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = save({"matrix": matrix.cpu().contiguous()})
        # Several actors may compute the same matrix at once: each writes its own file and renames it.
        with replacement_of(path, ".realign-{}.tmp") as file:
            file.write(content)
    except (OSError, SafetensorError) as error:
        _log.warning("realignment matrix cannot be stored in %s: %s", path.parent, error)
