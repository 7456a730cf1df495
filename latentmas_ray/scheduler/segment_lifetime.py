"""When a segment is freed: as soon as its turn and the turns of all its readers have results.

The scheduler asks after every result (`Scheduler._free_segments`) and has the runtime free the bytes
(`Runtime.free_segments`).
"""

from collections.abc import Iterable, Mapping, Set


def find_segments_to_free(stored: Iterable[str], done: Set[str], readers: Mapping[str, Set[str]]) -> list[str]:
    """Return the agents of one batch whose segments no turn will read any more.

    `stored` are the agents whose segments exist or will exist, `done` those whose turns have results, `readers` the
    agents that read each agent's segment.
    """
    return [agent for agent in stored if agent in done and readers[agent] <= done]
