"""A simulation of replicas that share devices, in virtual time, to compare predictions with."""

import heapq
from collections.abc import Mapping, Sequence


def simulate_chain(
    order: Sequence[str], seconds: Mapping[str, float], devices: Sequence[Sequence[str]], num_batches: int
) -> float:
    """Return the batches per second of a chain of agents, in the order in which they work.

    `devices`: the agents with an actor on each. A device executes one turn at a time, and of its waiting turns the one
    of the earliest batch. A turn goes to the actor of its agent whose device has the least work waiting. As many
    batches are under way as keep everything busy.
    """
    now, done, started = 0.0, 0, 0
    waiting: list[list[tuple[int, int]]] = [[] for _ in devices]  # (batch, step)
    work = [0.0] * len(devices)
    busy = [False] * len(devices)
    ends: list[tuple[float, int, int, int]] = []  # (time, device, batch, step)

    def submit(batch: int, step: int) -> None:
        hosts = [number for number, agents in enumerate(devices) if order[step] in agents]
        device = min(hosts, key=lambda number: (work[number], len(devices[number]), number))
        work[device] += seconds[order[step]]
        heapq.heappush(waiting[device], (batch, step))

    while done < num_batches:
        while started < num_batches and started - done < 4 * len(devices):
            submit(started, 0)
            started += 1
        for device, queue in enumerate(waiting):
            if queue and not busy[device]:
                batch, step = heapq.heappop(queue)
                busy[device] = True
                heapq.heappush(ends, (now + seconds[order[step]], device, batch, step))
        now, device, batch, step = heapq.heappop(ends)
        busy[device] = False
        work[device] -= seconds[order[step]]
        if step + 1 < len(order):
            submit(batch, step + 1)
        else:
            done += 1
    return num_batches / now
