"""What a run with matched memory gains over its controls: paired differences in accuracy, on the same questions.

system gain   G = accuracy(matched) − accuracy(none): the receiver only. The answering agent alone, with the same prompt
              and the same model, and nothing to read
pairing gain  P = accuracy(matched) − accuracy(deranged): this question's memory over as much memory of another one
"""

from collections.abc import Mapping
from dataclasses import dataclass

from latentmas_ray.config import MemoryName
from latentmas_ray.stats import PairedDifference, compare_paired

SYSTEM_GAIN, PAIRING_GAIN = "system gain G", "pairing gain P"
# The name of a matched run's gain, by the memory of the control.
GAINS: Mapping[MemoryName, str] = {
    "none": SYSTEM_GAIN,
    "deranged": PAIRING_GAIN,
    "prompt-only": "gain over prompt-only",
    "latent-only": "gain over latent-only",
    "latent-only+sink": "gain over latent-only+sink",
    "corrupted": "loss to a wrong fact",
}


@dataclass(frozen=True, kw_only=True)
class ControlGain:
    """A matched run's gain over one control, with its 95 % interval (paired bootstrap over questions)."""

    kind: str
    control: MemoryName
    paired: PairedDifference | None  # matched − control; None without a graded question in common


def gains_over(correct: Mapping[MemoryName, Mapping[str, float]]) -> tuple[ControlGain, ...]:
    """Return the gains of `correct["matched"]` over each other control. `correct` has, by control, each graded
    question's score: 0 or 1, or the mean over seeds."""
    matched = correct["matched"]
    found = []
    for control, kind in GAINS.items():
        if control not in correct:
            continue
        shared = [name for name in correct[control] if name in matched]
        base, other = [correct[control][name] for name in shared], [matched[name] for name in shared]
        found.append(ControlGain(kind=kind, control=control, paired=compare_paired(base, other) if shared else None))
    return tuple(found)
