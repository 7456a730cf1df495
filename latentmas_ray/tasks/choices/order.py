"""The order of options whose record says which is right, but not in which order they are asked."""

from collections.abc import Sequence
from hashlib import blake2b


def shuffled(name: str, texts: Sequence[str]) -> list[str]:
    """Return the options in an order that depends on the question's name and their texts only."""
    return sorted(texts, key=lambda text: blake2b(f"{name}\n{text}".encode()).digest())
