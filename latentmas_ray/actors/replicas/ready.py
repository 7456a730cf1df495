"""Which calls of actors are over: turns, and reports of replicas that write question by question."""

import time
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from typing import Any
from weakref import ref

import ray

from latentmas_ray.actors.text.text_replica import TextReplica
from latentmas_ray.scheduler.protocol import TurnHandle


class ReadyReferences:
    """Collects what belongs to references that have become ready.

    `ray.wait` looks at all references each time, of which a run has thousands; this costs only as much as there are
    ready ones. A reference whose call failed, or whose actor died, is ready, too.
    """

    def __init__(self) -> None:
        self._ready: SimpleQueue[ref[Any]] = SimpleQueue()  # filled by a thread of Ray's

    def watch(self, reference: ray.ObjectRef, what: object) -> None:
        """Collect `what` once `reference` is ready, unless it no longer exists then: it is referenced weakly."""
        found, ready = ref(what), self._ready
        reference.future().add_done_callback(lambda _: ready.put(found))

    def take(self, timeout_seconds: float) -> list[Any]:
        """Return what was collected since the last call; wait up to `timeout_seconds` for something that exists."""
        deadline = time.monotonic() + timeout_seconds
        found: list[Any] = []
        try:
            while not found:
                found = self._existing(self._ready.get(timeout=max(0.0, deadline - time.monotonic())))
            while True:
                found += self._existing(self._ready.get_nowait())
        except Empty:
            return found

    def _existing(self, reference: "ref[Any]") -> list[Any]:
        return [] if (what := reference()) is None else [what]


class ReadyCalls:
    """The turns that are over, and the replicas with a report of their questions."""

    def __init__(self) -> None:
        self._references = ReadyReferences()
        self._asked: set[TextReplica] = set()  # with an open call for a report
        self._unasked: dict[TextReplica, None] = {}  # without one, and perhaps with turns

    def watch(self, handle: TurnHandle, results: Iterable[ray.ObjectRef], replica: object) -> None:
        """Watch a turn that was submitted to `replica`; it is over when one of `results` is ready."""
        for reference in results:
            self._references.watch(reference, handle)
        if isinstance(replica, TextReplica) and replica not in self._asked:
            self._unasked[replica] = None

    def take(self, timeout_seconds: float) -> tuple[list[TextReplica], list[TurnHandle]]:
        """Return the replicas whose reports have come, which must be taken before the next call, and the turns that are
        over, cancelled ones among them. Wait for the first of either up to `timeout_seconds`."""
        for replica in list(self._unasked):
            if (reference := replica.report_reference()) is not None:
                self._references.watch(reference, replica)
                self._asked.add(replica)
            if reference is not None or not replica.pending:
                del self._unasked[replica]
        ready = dict.fromkeys(self._references.take(timeout_seconds))
        replicas = [one for one in ready if isinstance(one, TextReplica)]
        self._asked.difference_update(replicas)
        self._unasked.update(dict.fromkeys(replicas))
        return replicas, [one for one in ready if isinstance(one, TurnHandle)]
