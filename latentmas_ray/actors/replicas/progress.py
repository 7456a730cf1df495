"""How far the turns are that run now."""

from collections.abc import Sequence

import ray

from latentmas_ray.actors.errors import get_outcome, ignoring_dead
from latentmas_ray.actors.replicas.replica import Replica
from latentmas_ray.engine.timing.progress import TurnProgress

_PROGRESS_SECONDS = 2.0  # to ask actors how far they are


def ask_progress(busy: Sequence[Replica]) -> list[TurnProgress]:
    """Return how far the turns of these replicas are; one that does not answer at once is left out."""
    if not busy:
        return []
    found = []
    with ignoring_dead("running turns are not known"):
        asked = [replica.ask_progress() for replica in busy]
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=_PROGRESS_SECONDS)
        found = [get_outcome(reference) for reference in ready]
    return [progress for answer in found if isinstance(answer, list) for progress in answer]
