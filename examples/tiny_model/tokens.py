"""The tokenizer of the embedded model: a small byte-level BPE, digits one by one, a ChatML template."""

from collections.abc import Iterable, Iterator
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.tiny_model.texts import CHAIN_ROLES, FIXED_TEXTS, answer_prompt, expert_prompt, role_prompt, role_text
from latentmas_ray.tasks.chain import MAX_STEPS, make_problem
from latentmas_ray.tasks.names import HELD_OUT_NAMES, ITEMS, TRAIN_NAMES
from latentmas_ray.tasks.notes import WANTED, draw, make_notes

VOCAB_SIZE = 1024
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# A word keeps the space before it; digits, spaces and line ends stand alone.
_PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s"


def train_tokenizer() -> Tokenizer:
    """The same tokenizer every time: nothing in it is random but the texts, and they have a seed."""
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
    """Every name and thing equally often, then the tasks' own words."""
    yield from _often((f" {word}" for word in (*TRAIN_NAMES, *HELD_OUT_NAMES, *ITEMS)), 200)
    yield from _often(FIXED_TEXTS, 200)
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


def _often(texts: Iterable[str], times: int) -> Iterator[str]:
    for text in texts:
        for _ in range(times):
            yield text
