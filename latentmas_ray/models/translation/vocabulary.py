"""Tokens that two tokenizers have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import xxhash
from tokenizers import decoders
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from latentmas_ray.errors import ModelError

MIN_SHARED = 100  # tokens; a map from fewer would be a guess
_BYTE_LEVEL = decoders.ByteLevel()
_SPACE_MARK = "▁"
_UNDECODED = "\ufffd"


@dataclass(frozen=True)
class SharedVocabulary:
    """Pairs of tokens with the same text: `writer_ids[i]` of the writer and `reader_ids[i]` of the reader.

    `is_same` for tokenizers with the same tokens under the same ids; then all tokens are shared, special ones too.
    """

    writer_ids: tuple[int, ...]
    reader_ids: tuple[int, ...]
    is_same: bool

    def rows(self, writer_VE: Tensor, reader_VE: Tensor) -> tuple[Tensor, Tensor]:
        """The rows [S, E] of both models' embeddings for the shared tokens, in one order."""
        first, second = torch.tensor(self.writer_ids), torch.tensor(self.reader_ids)
        return writer_VE[first.to(writer_VE.device)], reader_VE[second.to(reader_VE.device)]

    @cached_property
    def digest(self) -> str:
        """A digest of the pairs."""
        return xxhash.xxh3_64(str((self.writer_ids, self.reader_ids)).encode()).hexdigest()


def shared_vocabulary(
    writer: PreTrainedTokenizerBase, reader: PreTrainedTokenizerBase, names: Sequence[str]
) -> SharedVocabulary:
    """Match the tokens of two tokenizers by their texts. `names` are the writer's and the reader's model.

    Raises ModelError if fewer than `MIN_SHARED` tokens match.
    """
    if is_same_tokenizer(writer, reader):
        ids = tuple(sorted(writer.get_vocab().values()))
        return SharedVocabulary(ids, ids, is_same=True)
    writer_texts, reader_texts = token_texts(writer), token_texts(reader)
    shared = sorted(writer_texts.keys() & reader_texts.keys())
    if len(shared) < MIN_SHARED:
        raise ModelError(
            "models",
            ", ".join(names),
            f"models that read each other's thoughts must have at least {MIN_SHARED} tokens in common, and {names[0]} "
            f"and {names[1]} have {len(shared)}; give their agents one model, or let them hand over text",
        )
    pairs = sorted((writer_texts[text], reader_texts[text]) for text in shared)
    return SharedVocabulary(tuple(one for one, _ in pairs), tuple(one for _, one in pairs), is_same=False)


def is_same_tokenizer(writer: PreTrainedTokenizerBase, reader: PreTrainedTokenizerBase) -> bool:
    """Whether both have the same tokens under the same ids, so that ids of one mean the same to the other."""
    return bool(writer.get_vocab() == reader.get_vocab())


def token_texts(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The id of each text that is one token.

    A byte-level tokenizer writes a space as Ġ, one of the sentencepiece family as ▁: texts are compared, not these
    forms. Left out: special and other added tokens, which control a model, tokens of bytes that are no whole character,
    and byte-fallback tokens such as <0x41>, which no text has where the character has a token of its own.
    """
    is_byte_level = _is_byte_level(tokenizer)
    left_out = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    texts: dict[str, int] = {}
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if index in left_out or (not is_byte_level and _is_byte_fallback(token)):
            continue
        text = _BYTE_LEVEL.decode([token]) if is_byte_level else token.replace(_SPACE_MARK, " ")
        if text and _UNDECODED not in text:
            texts.setdefault(text, index)
    return texts


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its tokens are written in the byte-level alphabet; one without a fast form is of sentencepiece."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in repr(backend.decoder)


def _is_byte_fallback(token: str) -> bool:
    return len(token) == len("<0x41>") and token.startswith("<0x") and token.endswith(">")
