"""Tries one family: does it compute here what transformers alone computes, in batches, over hand-overs, merged?"""

import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PretrainedConfig

from latentmas_ray.engine.engine import Engine
from latentmas_ray.errors import InputError, LatentMASError
from latentmas_ray.memory import KVCacheSpec, MergedLayout, Segment, SegmentChunk, join, merge_layout
from latentmas_ray.memory.codec import CodecName
from latentmas_ray.memory.wire import decode_chunk, encode_chunk
from latentmas_ray.models.abilities.cache_dims import dims_of
from latentmas_ray.models.abilities.find import full_spec
from latentmas_ray.models.compat import check_config
from latentmas_ray.models.load import auto_class, load_model
from latentmas_ray.vllm.families import vllm_obstacle
from tests.cases.memory import take
from tests.cases.wire import from_bytes, to_bytes
from tests.numerics.sweep.listing import Family
from tests.numerics.sweep.made_with import MADE_WITH
from tests.numerics.sweep.plain import PlainSequence
from tests.numerics.sweep.random_models import random_model, save, small_config
from tests.numerics.turns import TOLERANCE, begin, logits_of, memory, place_chain, prompts_of, think

NUM_STEPS = 3
# The window of a small configuration is 16: the chain of one question stays below it, others cross its edge.
PROMPTS = {"a": prompts_of([9, 1, 30], 1), "b": prompts_of([4, 19, 2], 2), "c": prompts_of([5, 3, 8], 3)}
_LARGEST_INT8_ERROR = 0.02  # of memory of random numbers, relative to its RMS

Kind = Literal["works", "refused", "untried", "fault"]


@dataclass(frozen=True)
class Outcome:
    """What happened to a family: `untried` if its default configuration makes no model here, `fault` if it neither
    works nor is refused. `errors`: the largest |Δlogit| of each check."""

    family: str
    architecture: str
    kind: Kind
    reason: str = ""  # the refusal's text, or the error of a fault
    merge: str = ""  # why branches cannot be merged; empty if they can
    cache: str = ""
    bytes_per_token: int = 0
    vllm: str = ""  # why vLLM cannot be given its memory; empty if it can be tried
    errors: Mapping[str, float] = field(default_factory=dict)
    where: str = ""  # the traceback of a fault

    @property
    def works(self) -> bool:
        return self.kind == "works"

    @property
    def largest_error(self) -> float:
        return max(self.errors.values(), default=0.0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def try_family(family: Family, *, config: PretrainedConfig | None = None) -> Outcome:
    """Try a random tiny model of a family, or of `config`. Never raises: an error is a fault of the outcome."""
    known = {"family": family.name, "architecture": family.architecture}
    with tempfile.TemporaryDirectory(prefix="family-") as folder:
        try:
            small = config or small_config(family)
            save(random_model(small), small, Path(folder))
        except Exception as error:  # noqa: BLE001 - transformers has no class for it
            if reason := _refused_as_configured(family):
                return Outcome(**known, kind="refused", reason=reason)
            return Outcome(**known, kind="untried", reason=_untried(error), where=traceback.format_exc())
        return _try_folder(Path(folder), small, known)


def _refused_as_configured(family: Family) -> str:
    """Why the family's default configuration alone is refused; empty if it is not, or if there is none."""
    try:
        config = family.config_class(**MADE_WITH.get(family.name, {}))
        check_config(config, "MODEL")
    except InputError as error:
        return str(error).partition("; ")[2]
    except Exception:  # noqa: BLE001 - transformers has no class for it
        return ""
    return ""


def _untried(error: Exception) -> str:
    """Why a family's default configuration makes no model here, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, ImportError):
        return lines[0].partition(". ")[0]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"its default configuration makes no model ({type(error).__name__}: {text})"


def _try_folder(folder: Path, config: PretrainedConfig, known: Mapping[str, str]) -> Outcome:
    try:
        return _checked(folder, config, known)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this family's outcome
        where = traceback.format_exc()
        return Outcome(**known, kind="fault", reason=f"{type(error).__name__}: {error}".splitlines()[0], where=where)


def _checked(folder: Path, config: PretrainedConfig, known: Mapping[str, str]) -> Outcome:
    try:
        lm = load_model(str(folder), dtype="float32", device="cpu")
    except InputError as error:
        reason = str(error).replace(str(folder), "MODEL").partition("; ")[2]
        return Outcome(**known, kind="refused", reason=reason)
    _check_stated(config, lm.spec)
    plain = auto_class(config).from_pretrained(folder, dtype=torch.float32).eval()
    engine = Engine(lm, thoughts="realign", cache_dir=folder)
    plain_of = partial(
        PlainSequence, plain, engine.rule, keeps_cache=not lm.spec.has_states, embed_factor=lm.embed_factor
    )
    trial = Trial(engine, plain_of)
    errors = {"thoughts": trial.thoughts(), "batch": trial.batch(), "hand-over": trial.hand_over()}
    errors["codec"] = trial.codec()
    try:
        errors["merge"], merge = trial.merge(), ""
    except LatentMASError as error:
        merge = str(error).rpartition("cannot merge them: ")[2]
    kinds = Counter(str(layer).replace(" float32", "") for layer in lm.spec.layers)
    cache = "; ".join(f"{count} × ({kind})" for kind, count in kinds.items())
    facts = {"merge": merge, "cache": cache, "bytes_per_token": lm.spec.bytes_per_token, "errors": errors}
    facts["vllm"] = vllm_obstacle(lm.spec) or ""
    outcome = Outcome(**known, kind="works", **facts)
    wrong = [f"{name} {error:.2g}" for name, error in errors.items() if not error <= TOLERANCE]
    return replace(outcome, kind="fault", reason=f"computes something else: {', '.join(wrong)}") if wrong else outcome


def _check_stated(config: PretrainedConfig, spec: KVCacheSpec) -> None:
    """What a plan and the doctor say of a model's memory without its weights is what it caches."""
    stated = full_spec(config, "MODEL", spec.dtype)
    dims = dims_of(config, "MODEL").in_dtype(spec.dtype)
    assert [layer.shape for layer in stated.layers] == [layer.shape for layer in spec.layers]
    assert stated.windows == spec.windows
    assert (dims.bytes_per_token, dims.state_bytes) == (spec.bytes_per_token, spec.state_bytes)


class Trial:
    """The checks of one family; each returns the largest |Δlogit|."""

    def __init__(self, engine: Engine, plain: Callable[[], PlainSequence]) -> None:
        self.engine, self.plain = engine, plain

    def thoughts(self) -> float:
        """A ragged batch of prompts and thoughts, and each of them by transformers alone."""
        session = begin(self.engine, PROMPTS["a"])
        prefill = logits_of(session).clone()
        session.think(NUM_STEPS)
        thought = logits_of(session).clone()
        errors = []
        for row, prompt in enumerate(PROMPTS["a"]):
            plain = self.plain().feed(prompt)
            errors.append(_difference(prefill[row], plain.logits_V))
            errors.append(_difference(thought[row], plain.think(NUM_STEPS).logits_V))
        return max(errors)

    def batch(self) -> float:
        """Three questions at once, and each of them alone: a chain of two agents."""
        together = self._read(self._chain([0, 1, 2]), [0, 1, 2])
        return max(_difference(self._read(self._chain([row]), [row])[0], together[row]) for row in range(3))

    def hand_over(self) -> float:
        """A reader of memory that came as bytes, and transformers alone, fed with the same inputs."""
        arrived = {name: from_bytes(to_bytes(one), expected=one.spec) for name, one in self._chain([0, 1, 2]).items()}
        logits = self._read(arrived, [0, 1, 2])
        errors = []
        for row in range(3):
            plain = self.plain()
            for segment in arrived.values():
                plain.recompute(segment.recompute_inputs.take([row]))
            errors.append(_difference(logits[row], plain.feed(PROMPTS["c"][row]).logits_V))
        return max(errors)

    def codec(self) -> float:
        """Memory coded without loss changes nothing; memory in 8 bits is off by little."""
        segments = {name: take(one, range(3)) for name, one in self._chain([0, 1, 2]).items()}
        exact = self._read(segments, [0, 1, 2])
        for name, segment in segments.items():
            stats = _coded(segment, "int8").codec_stats
            assert stats is not None
            assert 0 < stats.relative_error <= _LARGEST_INT8_ERROR, name
        arrived = {name: join([_coded(one, "none")]) for name, one in segments.items()}
        return _difference(self._read(arrived, [0, 1, 2]), exact)

    def merge(self) -> float:
        """Two branches that are merged, and the same two computed where the merge puts them. Raises LatentMASError for
        a model whose branches cannot be merged."""
        branches = {name: think(self.engine, PROMPTS[name], NUM_STEPS) for name in ("a", "b")}
        layout = merge_layout([memory("a"), memory("b")], branches, 3)
        merged = logits_of(begin(self.engine, PROMPTS["c"], layout)).clone()
        return max(_difference(merged[row], self._written_out(branches, row)) for row in range(3))

    def _written_out(self, branches: Mapping[str, Segment], row: int) -> Tensor:
        placed, position = {}, 0
        for name in branches:
            session = self.engine.open(["q"], num_slots=128)
            session.absorb(MergedLayout((), (position,)))
            session.prefill([PROMPTS[name][row]])
            session.think(NUM_STEPS)
            placed[name] = session.emit()
            position += len(PROMPTS[name][row]) + NUM_STEPS
        return self._read(placed, [row])[0]

    def _chain(self, rows: list[int]) -> dict[str, Segment]:
        segments = {"a": think(self.engine, [PROMPTS["a"][row] for row in rows], NUM_STEPS)}
        layout = place_chain(segments)
        segments["b"] = think(self.engine, [PROMPTS["b"][row] for row in rows], NUM_STEPS, layout)
        return segments

    def _read(self, segments: Mapping[str, Segment], rows: list[int]) -> Tensor:
        return logits_of(begin(self.engine, [PROMPTS["c"][row] for row in rows], place_chain(segments))).clone()


def _coded(segment: Segment, codec: CodecName) -> SegmentChunk:
    """What arrives."""
    header, body = encode_chunk(SegmentChunk.whole(segment), codec=codec)
    return decode_chunk(header, body, expected=segment.spec)


def _difference(got: Tensor, expected: Tensor) -> float:
    return float((got.float() - expected.float()).abs().max())
