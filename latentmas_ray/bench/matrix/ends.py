"""The ends of a matrix as actors: started all at the same time, called with a bound, and named when they are lost."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from latentmas_ray.actors.bench_actor import BenchActorHandle, BenchNode, get_result, wait_until_made
from latentmas_ray.authentication import RunKey
from latentmas_ray.bench.matrix.end import EndFacts, MatrixEnd, Timed
from latentmas_ray.bench.matrix.pairs import EndPlace, name_ends
from latentmas_ray.errors import LatentMASError, first_line
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.transport import DeviceLayout, Place, Transport

START_SECONDS = 180.0
CALL_SECONDS = 90.0  # above what an end waits by itself for bytes of another one
_FETCH_SECONDS = 45.0
_PING_SECONDS = 75.0  # an end may first have to give up another one


class LostEndError(LatentMASError):
    """An end that is needed is lost."""


@dataclass(frozen=True)
class End:
    """One end: its name, its node's address, its actor, and what it said at the start."""

    name: str
    host: str
    node_id: str
    actor: BenchActorHandle


class Ends:
    """All ends of a matrix; `lost` has those that died, stopped answering or never started, and why."""

    def __init__(self, nodes: Sequence[BenchNode], places: Sequence[EndPlace], make: "partial[MatrixEnd]") -> None:
        """Create the actors; `make` makes what lives in one."""
        names = name_ends(places, [node.host for node in nodes], [node.node_id for node in nodes])
        self.lost: dict[str, str] = {}
        self.facts: dict[EndPlace, EndFacts] = {}
        self._ends = {
            place: End(
                names[place],
                nodes[place.node].host,
                nodes[place.node].node_id,
                BenchActorHandle(make, nodes[place.node].node_id, int(place.has_gpu)),
            )
            for place in places
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all ends."""
        return tuple(end.name for end in self._ends.values())

    def name(self, place: EndPlace) -> str:
        """Return the name of an end."""
        return self._ends[place].name

    def start(self) -> None:
        """Wait until all ends have said what they have; those that do not are lost."""
        self.facts = self._all({place: ("start", (end.host,)) for place, end in self._ends.items()})

    def prepare(self, transport: Transport, num_streams: int) -> None:
        """Open the transport at all ends; those that fail are lost."""
        self._all(
            {
                place: ("prepare", (transport, self._ends[place].node_id, facts.gpu, num_streams))
                for place, facts in self.facts.items()
            }
        )

    def layout(self) -> DeviceLayout:
        """Return the devices and nodes of the ends that started."""
        places = [Place(self._ends[place].node_id, facts.gpu) for place, facts in self.facts.items()]
        return DeviceLayout(
            device="cpu" if any(place.gpu is None for place in places) else "cuda",
            nodes="one" if len({place.node for place in places}) == 1 else "several",
            available=frozenset.intersection(*(facts.available for facts in self.facts.values())),
        )

    def kind(self, sender: EndPlace, reader: EndPlace) -> Any:
        """Return the link from one end to another; from an end that never started, as if it had no GPU."""
        one, other = (
            Place(self._ends[place].node_id, facts.gpu if (facts := self.facts.get(place)) else None)
            for place in (sender, reader)
        )
        return one.link_to(other)

    def check_alive(self, places: Iterable[EndPlace]) -> None:
        """Raise LostEndError if one of the ends is lost."""
        for place in places:
            if (name := self.name(place)) in self.lost:
                raise LostEndError(f"{name} was lost")

    def move(self, senders: Iterable[EndPlace], reader: EndPlace) -> Timed:
        """Have each sender pack its segment, and then the reader receive all of them; return the reader's seconds.

        Raises LatentMASError kinds.
        """
        references = [self._ends[place].actor.submit("send") for place in senders]
        wait_until_made(references, CALL_SECONDS)
        return self._read({reader: references})[reader]

    def move_all(self, places: Sequence[EndPlace]) -> float:
        """Have every end receive the segments of all others, all at the same time; return the seconds of the last."""
        packed = {place: self._ends[place].actor.submit("send") for place in places}
        wait_until_made(list(packed.values()), CALL_SECONDS)
        others = {place: [one for other, one in packed.items() if other != place] for place in places}
        return max(timed.seconds for timed in self._read(others).values())

    def tcp(self, to: Mapping[EndPlace, Sequence[EndPlace]], num_streams: int | None) -> float:
        """Have each end send to others over plain TCP, all at the same time; return the seconds of the slowest."""
        asked = []
        for sender, readers in to.items():
            addresses = [(self._ends[reader].host, self.facts[reader].port) for reader in readers]
            asked.append(self._ends[sender].actor.submit("tcp_seconds", addresses, num_streams))
        return max(float(timed.seconds) for timed in _get_all(asked))

    def memcpy(self, place: EndPlace) -> float:
        """Return the seconds of one memcpy at an end."""
        return float(self.call(place, "copy_seconds").seconds)

    def call(self, place: EndPlace, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method of an end with a bound. Raises LatentMASError kinds."""
        return get_result(self._ends[place].actor.submit(method, *arguments, **keywords), CALL_SECONDS)

    def release(self, places: Iterable[EndPlace]) -> None:
        """Free what these ends have packed or read."""
        _get_all([self._ends[place].actor.submit("release") for place in places])

    def find_lost(self, places: Iterable[EndPlace]) -> list[str]:
        """Ask these ends whether they are there; record and return the names of those that do not answer."""
        asked = {
            place: self._ends[place].actor.submit("release") for place in places if self.name(place) not in self.lost
        }
        answered = self._answers(asked, _PING_SECONDS)
        return [self.name(place) for place in asked if place not in answered]

    def close(self) -> None:
        """End all actors."""
        for end in self._ends.values():
            end.actor.kill()

    def _read(self, references_of: Mapping[EndPlace, Sequence[Any]]) -> dict[EndPlace, Timed]:
        reading = {
            place: self._ends[place].actor.submit_reading("receive", references, _FETCH_SECONDS)
            for place, references in references_of.items()
        }
        return dict(zip(reading, _get_all(list(reading.values())), strict=True))

    def _all(self, calls: Mapping[EndPlace, tuple[str, tuple[Any, ...]]]) -> dict[EndPlace, Any]:
        """Make a call of each end at the same time; return the results of those that answered."""
        asked = {place: self._ends[place].actor.submit(name, *arguments) for place, (name, arguments) in calls.items()}
        return self._answers(asked, START_SECONDS)

    def _answers(self, asked: Mapping[EndPlace, Any], timeout_seconds: float) -> dict[EndPlace, Any]:
        """Return the results that come within a time for all together; ends without one are lost."""
        since, results = time.monotonic(), {}
        for place, reference in asked.items():
            try:
                results[place] = get_result(reference, timeout_seconds, since)
            except LatentMASError as error:
                self._lose(place, error)
        return results

    def _lose(self, place: EndPlace, error: LatentMASError) -> None:
        self.lost[self.name(place)] = first_line(error)


def _get_all(references: Sequence[Any]) -> list[Any]:
    """Return the results of calls that have `CALL_SECONDS` together. Raises LatentMASError kinds."""
    since = time.monotonic()
    return [get_result(reference, CALL_SECONDS, since) for reference in references]


def make_ends(
    nodes: Sequence[BenchNode], places: Sequence[EndPlace], spec: KVCacheSpec, num_tokens: int, num_threads: int
) -> Ends:
    """Return the ends of a matrix, created and not started."""
    return Ends(nodes, places, partial(MatrixEnd, spec, num_tokens, num_threads, RunKey.generate()))
