"""The words of the generated tasks `notes` and `chain`. Names are split: for training, and held out for questions.

Training may use held-out names elsewhere (as words to copy), but never in a task.
"""

import zlib
from collections.abc import Sequence
from typing import Literal

Split = Literal["train", "held_out"]

_TRAIN = """
Ada Adam Agnes Alan Albert Alma Amir Amy Andy Anita Anna Anton Arno Asha Bella Ben Bert Bianca Boris Bruno
Carl Carla Carmen Cecil Chloe Clara Conrad Dan Daria David Diana Dina Doris Dora Eddie Edith Elena Eli Elsa
Emil Emma Eric Erik Ester Eva Felix Fiona Flora Frank Fred Frida Gina Greta Gustav Hanna Hans Hector Heidi
Helen Henry Hugo Ida Igor Ines Ingo Iris Isaac Ivan Jack Jade Jan Jane Jenny Jim Joan Joel Johan Jonas Jose
Judith Julia Kai Karen Karl Kate Kim Klara Kurt Lara Lars Laura Lea Lena Leo Lily Linda Lisa Louis Lucas Lucy
Luis Lydia Maja Marco Maria Marta Martin Max Maya Meg Mia Mila Mona
"""
_HELD_OUT = """
Nadia Nell Nick Nina Noah Nora Olaf Olga Olive Omar Oscar Otto Pablo Paul Paula Pedro Peter Petra Pia Priya
Ralph Rita Robert Rosa Ruth Sam Sara Simon Sofia Stella Tara Theo Tim Tom Toni Uma Ute Vera Victor Zoe
"""
_ITEMS = """
apples beads books cards coins cups eggs keys nuts pears pens rings shells stamps stones toys
"""

TRAIN_NAMES = tuple(_TRAIN.split())
HELD_OUT_NAMES = tuple(_HELD_OUT.split())
ITEMS = tuple(_ITEMS.split())


def names_of(split: Split) -> tuple[str, ...]:
    """Return the names that questions of this split use."""
    return TRAIN_NAMES if split == "train" else HELD_OUT_NAMES


def split_of(numbers: Sequence[int]) -> Split:
    """Return the split of a combination of numbers: a fifth of them, spread evenly, is held out."""
    return "held_out" if zlib.crc32(",".join(map(str, numbers)).encode()) % 5 == 0 else "train"
