"""What the actors of a run have reported, in one line for the log, and as the layout of their devices."""

from collections.abc import Callable, Sequence

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.placement import Plan
from latentmas_ray.transport import DeviceLayout
from latentmas_ray.transport.choose import LinkTimes


def describe_actors(plan: Plan, loaded: Sequence[Loaded], *, num_threads: int, is_pinned: bool) -> str:
    """Return one line for the log: actors, devices, threads, and the reason for the placement."""
    num_nodes = len({one.node_id for one in loaded})
    place = f"{_count(len(loaded), 'actor')} on {_count(num_nodes, 'node')}"
    kinds = ", ".join(sorted({one.device for one in loaded}))
    parts = sorted({plan.gpus_of(slot) for slot in plan.actors_on})
    each = (
        f"{' to '.join(f'{part:g}' for part in dict.fromkeys((parts[0], parts[-1])))} GPU each"
        if plan.share.num_gpus
        else f"{_count(num_threads, 'torch thread')} each"
    )
    tp = plan.request.tp
    ranks = f", {tp} for each replica" if tp > 1 else ""
    why = "" if plan.request.placement != "auto" or plan.strategy == "pack" else f" ({plan.why})"
    if not is_pinned:
        why = " (on other nodes than planned, which were taken)"
    return f"{place}{ranks}, {kinds}, {each}, placement {plan.strategy}{why}"


def layout_of(
    loaded: Sequence[Loaded],
    *,
    is_colocated: bool,
    may_move: bool = False,
    measure: Callable[[], LinkTimes] | None = None,
) -> DeviceLayout:
    """Return the devices that the actors run on, and what all of them support. With `may_move` actors may be added on
    other nodes later."""
    gpus = {one.gpu for one in loaded}
    is_shared = len(gpus) < len(loaded)
    return DeviceLayout(
        same_process=is_colocated,
        device="cpu" if None in gpus else "cuda",
        nodes="one" if len({one.node_id for one in loaded}) == 1 and not may_move else "several",
        gpus="one" if len(gpus) == 1 and is_shared and not may_move else "shared" if is_shared else "own",
        available=frozenset.intersection(*(one.available for one in loaded)),
        measure=measure,
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
