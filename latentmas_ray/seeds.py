"""The seeds of an evaluation: parse them, name the output folder of each, and derive those of samples."""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from latentmas_ray.errors import ConfigError

_MAX_SEED = 2**63 - 1
_SAMPLE_SEED_BYTES = 6  # a whole number that every reader of JSON keeps exactly
_FORM = f"it must be different whole numbers from 0 to {_MAX_SEED}, as in 1,2,3"
_FOLDER = re.compile(r"seed-(0|[1-9]\d{0,18})", re.ASCII)
_SEED: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=0, le=_MAX_SEED)])


def parse_seeds(seeds: str | Sequence[int]) -> tuple[int, ...]:
    """Return checked seeds from `1,2,3` or from numbers. Raises ConfigError for an empty list, a repeated seed, or a
    value that is not a seed."""
    if not isinstance(seeds, Iterable):  # a single seed, say
        raise ConfigError("seeds", repr(seeds), _FORM)
    parts = seeds.split(",") if isinstance(seeds, str) else list(seeds)
    given = ",".join(map(str, parts))
    try:
        numbers = tuple(map(_seed, parts))
    except ValidationError:
        numbers = ()
    if not numbers:
        raise ConfigError("seeds", given, _FORM)
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise ConfigError("seeds", given, f"{twice} is given twice; {_FORM}")
    return numbers


def sample_seed(seed: int, sample: int) -> int:
    """Return the seed of one of several answers to the same question: of number 0 the run's own, of any other 48 bits
    of a hash. So the samples of a run with the next seed are others, and a run of one sample with this seed repeats
    it."""
    if sample == 0:
        return seed
    digest = blake2b(f"{seed}\x1f{sample}".encode(), digest_size=_SAMPLE_SEED_BYTES, person=b"latentmas-seeds")
    return int.from_bytes(digest.digest(), "little")


def seed_output(output: str, seed: int | str) -> str:
    """Return the output folder or URL of one seed, below `output`, that of all seeds."""
    return f"{output.rstrip('/')}/seed-{seed}"


def seed_folders(folder: Path) -> dict[int, Path]:
    """Return the output folders of single seeds in `folder`, in the order of the seeds; empty if it is no folder."""
    if not folder.is_dir():
        return {}
    found = {int(match[1]): path for path in folder.iterdir() if (match := _FOLDER.fullmatch(path.name))}
    return {seed: found[seed] for seed in sorted(found) if found[seed].is_dir()}


def _seed(value: object) -> int:
    return _SEED.validate_strings(value) if isinstance(value, str) else _SEED.validate_python(value, strict=True)
