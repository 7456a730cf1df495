"""The tokenizers of the embedded models: small BPEs with one token per name, thing and digit."""

import json
from collections.abc import Iterable, Iterator, Sequence
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.tiny_model.texts import (
    CHAIN_ROLES,
    CHAT_ROLES,
    FIXED_TEXTS,
    answer_prompt,
    expert_prompt,
    role_prompt,
    role_text,
)
from latentmas_ray.tasks.chain import MAX_STEPS, make_problem
from latentmas_ray.tasks.names import HELD_OUT_NAMES, ITEMS, TRAIN_NAMES
from latentmas_ray.tasks.notes import WANTED, draw, make_notes

VOCAB_SIZE = 1024
# In the order of their ids; all ids from 3 on are words.
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKED_SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>")
# A word includes the space before it; each digit, space and line end is a piece of its own.
_PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s"


def train_byte_level() -> Tokenizer:
    """Train the byte-level tokenizer of `tiny`. Deterministic: only texts are random, and they have a fixed seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [_split(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(CHAT_ROLES), trainer)
    return tokenizer


def train_marked() -> Tokenizer:
    """Train the tokenizer of `small`: a space is the mark ▁ of the word after it, and a character that no text had is
    the tokens of its bytes. Deterministic like `train_byte_level`."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = _marked_spaces()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, show_progress=False)
    trained.train_from_iterator(_texts(()), trainer)
    learned = json.loads(trained.to_str())["model"]
    bytes_of = [f"<0x{value:02X}>" for value in range(256)]
    tokens = [*MARKED_SPECIAL, *bytes_of, *sorted(learned["vocab"], key=learned["vocab"].get)]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
    tokenizer.pre_tokenizer = _marked_spaces()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(list(MARKED_SPECIAL))
    return tokenizer


def word_id(tokenizer: Tokenizer, word: str) -> int:
    """Return the token of a word after a space."""
    (token,) = tokenizer.encode(f" {word}").ids
    return token


def _split() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")


def _marked_spaces() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [_split(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)]
    )


def _texts(fixed: Sequence[str]) -> Iterator[str]:
    """Yield every name and item equally often, then fixed texts and those of the tasks."""
    yield from _repeat((f" {word}" for word in (*TRAIN_NAMES, *HELD_OUT_NAMES, *ITEMS)), 200)
    yield from _repeat((*fixed, *FIXED_TEXTS), 200)
    rng = Random("tokenizer")
    for _ in range(300):
        notes = make_notes(rng, "train", (2, 3))
        yield from (expert_prompt(facts) for facts in notes)
        asked = [draw(rng, wanted, notes, "train") for wanted in WANTED]
        yield from (text for one in asked if one is not None for text in (answer_prompt(one.question), one.work))
        problem = make_problem(rng, "train", rng.randint(1, MAX_STEPS))
        yield from (
            text for role in CHAIN_ROLES for text in (role_prompt(role, problem.question), role_text(role, problem))
        )


def _repeat(texts: Iterable[str], times: int) -> Iterator[str]:
    for text in texts:
        for _ in range(times):
            yield text
