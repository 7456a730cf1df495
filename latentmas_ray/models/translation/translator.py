"""Recompute inputs of one model as recompute inputs of another.

Dimensions: T inputs, N latent thoughts, E hidden size (E_A of the writer, E_B of the reader).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import torch
from torch import Tensor

from latentmas_ray.errors import IncompatibleMemoryError, ModelError, SegmentError
from latentmas_ray.memory import LATENT, RecomputeInputs
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.load import load_tokenizer
from latentmas_ray.models.thoughts.realign import mean_norm
from latentmas_ray.models.translation.adapter import ThoughtAdapter
from latentmas_ray.models.translation.embeddings import load_embeddings
from latentmas_ray.models.translation.retokenize import Retokenizer
from latentmas_ray.models.translation.thought_map import load_or_solve_map
from latentmas_ray.models.translation.vocabulary import shared_vocabulary

_MIN_NORM = 1e-6


@dataclass(frozen=True)
class Translator:
    """Translates what agents of model `writer` were fed for agents of model `reader`.

    `matrix_AB` [E_A, E_B] in fp32 maps thoughts, which then get the norm `target_norm`. `retokenize` None stands for
    one tokenizer: token ids stay.
    """

    writer: str
    reader: str
    num_writer_tokens: int
    dtype: torch.dtype  # of the reader's embeddings
    matrix_AB: Tensor
    target_norm: float
    retokenize: Retokenizer | None

    def translate(self, inputs: RecomputeInputs) -> RecomputeInputs:
        """Return the reader's inputs; of each question, every stretch of tokens is its text in the reader's tokens,
        and every thought is one thought. The lengths of stretches may change.

        A prefix that ends where a stretch ends translates to a prefix, so the new place of such an end is the length
        of `translate(inputs.head(…))`. Changes nothing else. Raises IncompatibleMemoryError for thoughts of another
        size than the writer's, SegmentError for tokens that it does not have, ModelError if the reader's chat template
        refuses a prompt.
        """
        self._check(inputs)
        questions = [self._translate_ids(ids.tolist()) for ids in inputs.token_ids_T.split(list(inputs.lengths))]
        return RecomputeInputs(
            torch.tensor(list(chain(*questions)), dtype=torch.int64),
            self._translate_thoughts(inputs.latents_NE),
            tuple(map(len, questions)),
        )

    def _translate_ids(self, ids: Sequence[int]) -> list[int]:
        if self.retokenize is None:
            return list(ids)
        translated: list[int] = []
        for is_thought, inputs in groupby(ids, lambda token: token == LATENT):
            stretch = list(inputs)
            translated += stretch if is_thought else self.retokenize(stretch)
        return translated

    def _translate_thoughts(self, thoughts_NE: Tensor) -> Tensor:
        mapped_NE = thoughts_NE.to(self.matrix_AB.device).float() @ self.matrix_AB
        norms_N1 = mapped_NE.norm(dim=-1, keepdim=True).clamp_min(_MIN_NORM)
        scaled_NE: Tensor = mapped_NE * (self.target_norm / norms_N1)
        return scaled_NE.to(self.dtype).cpu()

    def _check(self, inputs: RecomputeInputs) -> None:
        size = self.matrix_AB.shape[0]
        if inputs.latents_NE.shape[1] != size:
            raise IncompatibleMemoryError(
                f"thoughts of model {self.writer} have {size} numbers, these have {inputs.latents_NE.shape[1]}"
            )
        largest = int(inputs.token_ids_T.max()) if inputs.token_ids_T.numel() else 0
        if largest >= self.num_writer_tokens:
            raise SegmentError(
                f"token {largest} was fed to the agent, but model {self.writer} has {self.num_writer_tokens}"
            )


def check_translatable(writer: str, reader: str) -> None:
    """Check before anything is started that agents of model `reader` can read those of model `writer`; reads their
    tokenizers alone. Raises ModelError for too few shared tokens, and for a tokenizer that does not load."""
    shared_vocabulary(load_tokenizer(writer), load_tokenizer(reader), (writer, reader))


def make_translator(
    writer: str, reader: LanguageModel, cache_dir: Path, adapter: ThoughtAdapter | None = None
) -> Translator:
    """Return the translator from the model of this name or folder to a loaded one.

    Of the writer it reads the tokenizer and the two embeddings. Thoughts go through the map of `adapter`; without one
    through that which needs no training, read from `cache_dir`, or solved and stored there. With tensor parallelism all
    ranks of the reader call this alike. Raises ModelError for models that share too few tokens, for files that do not
    load, and for an adapter of other hidden sizes; ShardError.
    """
    tokenizer = load_tokenizer(writer)
    shared = shared_vocabulary(tokenizer, reader.chat.tokenizer, (writer, reader.name))
    embeddings = load_embeddings(writer)
    reader_VE = reader.input_embeddings()
    ranks = reader.ranks
    sizes = (embeddings.input_VE.shape[1], reader_VE.shape[1])
    if adapter is not None and tuple(adapter.matrix_AB.shape) != sizes:
        found = tuple(adapter.matrix_AB.shape)
        expected = f"the hidden sizes of {writer} and {reader.name} are {sizes}, and the map has {found}"
        raise ModelError("translation", f"{adapter.writer} to {adapter.reader}", expected)
    matrix_AB = ranks.broadcast_from_rank0(
        lambda: (
            adapter.matrix_AB
            if adapter is not None
            else load_or_solve_map(embeddings, reader_VE, shared, cache_dir, reader.spec.weights_revision).cpu()
        )
    )
    norm = ranks.broadcast_from_rank0(lambda: mean_norm(reader_VE))
    return Translator(
        writer=writer,
        reader=reader.name,
        num_writer_tokens=len(embeddings.input_VE),
        dtype=reader.spec.torch_dtype,
        matrix_AB=matrix_AB.to(reader.device),
        target_norm=norm,
        retokenize=None if shared.is_same else Retokenizer(ChatTokenizer(tokenizer, writer), reader.chat),
    )
