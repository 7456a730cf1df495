"""Embedded weights that are stored as a difference to another embedded model's, and the model folder made of both.

A matrix is stored as whole numbers from -127 to 127 and a scale for each row, in float32: trained = base + scale ·
number, rounded to the base's dtype. What has one dimension is stored whole, and what is not stored is the base's. The
sums are those of float32 on every machine, so all machines decode the same bytes.
"""

import atexit
import logging
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentmas_ray.env import read_environment
from latentmas_ray.errors import ModelError

DIFFERENCE, WEIGHTS = "difference.safetensors", "model.safetensors"
_LARGEST = 127
_SCALE = ".scale"
_log = logging.getLogger(__name__)


def encode(base: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the difference of `trained` to the tensors of `base` of these names, as it is stored.

    Raises ValueError for a tensor that `base` lacks, or has in another shape.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in trained.items():
        if name not in base or base[name].shape != tensor.shape:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} is no tensor of the base")
        if tensor.ndim == 1:
            found[name] = tensor.to(base[name].dtype)
            continue
        difference = tensor.float() - base[name].float()
        scale = difference.abs().amax(dim=1, keepdim=True) / _LARGEST
        found[name] = (difference / scale.clamp_min(torch.finfo(torch.float32).tiny)).round().to(torch.int8)
        found[f"{name}{_SCALE}"] = scale
    return found


def decode(base: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all tensors of the trained model, in the dtypes of `base`."""
    found = dict(base)
    for name, tensor in stored.items():
        if name.endswith(_SCALE):
            continue
        scale = stored.get(f"{name}{_SCALE}")
        whole = tensor if scale is None else base[name].float() + scale * tensor.float()
        found[name] = whole.to(base[name].dtype)
    return found


@cache
def decoded_folder(name: str, base: Path, folder: Path) -> Path:
    """Return a model folder with the weights of `base` and the difference in `folder`, made when it is first needed.

    It is in the cache folder, where every process of this machine finds it, or, if nothing can be written there, in a
    temporary folder of this process. Raises ModelError if a file of the package is damaged.
    """
    digest = xxhash.xxh3_128()
    for path in (base / WEIGHTS, folder / DIFFERENCE):
        digest.update(path.read_bytes())
    cached = read_environment().cache_dir / f"{name}-{digest.hexdigest()}"
    if (cached / WEIGHTS).is_file():
        return cached
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        made = _made(Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cached.parent)), name, base, folder)
    except OSError as error:
        _log.warning("the weights of %s cannot be stored in %s: %s", name, cached.parent, error)
        made = Path(tempfile.mkdtemp(prefix=f"latentmas-{name}-"))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        return _made(made, name, base, folder)
    try:
        made.rename(cached)
    except OSError:  # another process was faster
        shutil.rmtree(made, ignore_errors=True)
    return cached


def make_folder(made: Path, base: Path, difference: Path) -> None:
    """Write the files of a model folder into `made`: the base's own, with the decoded weights. Raises OSError, and
    KeyError, RuntimeError or SafetensorError for a damaged file."""
    weights = decode(load_file(base / WEIGHTS), load_file(difference))
    for path in base.iterdir():
        if path.name not in (WEIGHTS, "README.md"):
            shutil.copyfile(path, made / path.name)
    save_file(weights, made / WEIGHTS, metadata={"format": "pt"})


def _made(made: Path, name: str, base: Path, folder: Path) -> Path:
    """Return `made` with the model in it. Removes it if that fails."""
    try:
        make_folder(made, base, folder / DIFFERENCE)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, KeyError | RuntimeError | SafetensorError):
            raise ModelError("model", name, f"its files in {folder} are damaged; install the package again") from error
        raise
    return made
