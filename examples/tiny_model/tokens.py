"""The tokenizer of the embedded model: a small byte-level BPE with one token per digit and a ChatML template."""

from collections.abc import Iterable, Iterator
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.tiny_model.texts import CHAIN_ROLES, FIXED_TEXTS, answer_prompt, expert_prompt, role_prompt, role_text
from latentmas_ray.tasks.chain import MAX_STEPS, make_problem
from latentmas_ray.tasks.names import HELD_OUT_NAMES, ITEMS, TRAIN_NAMES
from latentmas_ray.tasks.notes import WANTED, draw, make_notes

VOCAB_SIZE = 1024
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# A word includes the space before it; each digit, space and line end is a piece of its own.
_PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s"


def train_tokenizer() -> Tokenizer:
    """Train the tokenizer. Deterministic: only the texts are random, and they have a fixed seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _texts() -> Iterator[str]:
    """Yield every name and item equally often, then texts of the tasks."""
    yield from _repeat((f" {word}" for word in (*TRAIN_NAMES, *HELD_OUT_NAMES, *ITEMS)), 200)
    yield from _repeat(FIXED_TEXTS, 200)
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
