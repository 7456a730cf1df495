"""One replica of an agent whose model is divided over several actors, one for each tensor-parallel rank.

Towards the driver it is one replica: a turn goes to all ranks, rank r's parcels go to rank r of the reader (or to the
rank that needs its heads), one report comes back, and if a rank dies the whole replica is one that died.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.rank_actor import Source
from latentmas_ray.actors.rank_reports import merge_reports
from latentmas_ray.actors.transfers import Whereabouts
from latentmas_ray.engine.turn import TurnReport, TurnWork
from latentmas_ray.errors import ActorError, InputError, ShardError, TurnError
from latentmas_ray.memory import KVCacheSpec, Shard
from latentmas_ray.memory.reslice import sources_of
from latentmas_ray.transport import Transport

_GRACE_SECONDS = 5.0  # for the other ranks to tell what happened, when one has failed


@dataclass(frozen=True, eq=False)
class ShardedSegment:
    """References to the parcels of a segment, `parcels[rank][part]`, and where each rank's are."""

    parcels: tuple[tuple[ray.ObjectRef, ...], ...]
    whereabouts: tuple[Whereabouts, ...]


@dataclass(frozen=True, eq=False)
class ShardTurn:
    """A turn at all ranks. It is over when one of `reports` is there; `ShardGroup.report` waits for the others."""

    number: int
    reports: tuple[ray.ObjectRef, ...]
    reads: Mapping[str, tuple[Whereabouts, ...]]
    has_begun: bool  # by `begin_rank`, so that somebody may have to forget it


class ShardGroup:
    """The ranks of one replica. Made of actors of `RankActor` that somebody else has placed, rank by rank."""

    def __init__(self, agent: str, actors: Sequence[Any]) -> None:
        self.agent = agent
        self.lost: str | None = None  # why no turn can be carried out any more
        self._actors = tuple(actors)
        self._nodes: tuple[str, ...] = ()
        self._spec: KVCacheSpec | None = None
        self._num_turns = 0

    @property
    def num_ranks(self) -> int:
        return len(self._actors)

    @property
    def spec(self) -> KVCacheSpec:
        """The memory of the whole model: of all ranks together."""
        assert self._spec is not None, "accept() comes first"
        return self._spec

    def start(self) -> list[ray.ObjectRef]:
        """Have all ranks meet and load: references to a `Loaded` of each, in order, for `accept`."""
        address = self._actors[0].open_meeting.options(concurrency_group="side").remote()
        return [actor.load_shard.options(concurrency_group="turns").remote(address) for actor in self._actors]

    def accept(self, loaded: Sequence[Loaded]) -> None:
        """Take note of what the ranks have loaded. Raises IncompatibleMemoryError if it is not one model."""
        for rank, one in enumerate(loaded):
            loaded[0].spec.of_shard(Shard(rank, self.num_ranks)).check_same(one.spec)
        self._spec = loaded[0].spec.of_shard(Shard())
        self._nodes = tuple(one.node_id for one in loaded)

    def use(self, transport: Transport) -> list[ray.ObjectRef]:
        """Have memory travel this way: references to wait for."""
        return [actor.use.options(concurrency_group="turns").remote(transport) for actor in self._actors]

    def submit(
        self, work: TurnWork, segments: Mapping[str, ShardedSegment], *, overlap: bool
    ) -> tuple[ShardedSegment | None, ShardTurn]:
        """Queue a turn at all ranks; the segment that it will write (None for a text agent), and the turn.

        `segments` may be of replicas with any number of ranks. With `overlap` a prompt's memory leaves early.
        """
        self._num_turns += 1
        number, reports = self._num_turns, []
        parcels: list[tuple[ray.ObjectRef, ...]] = []
        has_begun = overlap and work.leaves_early
        for rank, actor in enumerate(self._actors):
            sources = [self._source(segments[name], rank) for name in work.segment_order()]
            if has_begun:
                begin = actor.begin_rank.options(num_returns=2, concurrency_group="turns")
                first, begun = begin.remote(number, work, sources)
                last, report = actor.end_turn.options(num_returns=2, concurrency_group="ends").remote(begun)
                parcels.append((first, last))
            else:
                run = actor.run_rank.options(num_returns=2, concurrency_group="turns")
                segment, report = run.remote(number, work, sources)
                parcels.append((segment,))
            reports.append(report)
        reads = {name: segments[name].whereabouts for name in work.segment_order()}
        turn = ShardTurn(number, tuple(reports), reads, has_begun)
        if work.thinks != "latent":
            return None, turn
        return ShardedSegment(tuple(parcels), tuple(map(Whereabouts, self._nodes))), turn

    def report(self, turn: ShardTurn, *, shares_node: bool) -> TurnReport:
        """The report of a turn, of all ranks together. `shares_node` is a trait of the transport.

        Raises TurnError if the turn failed, a user's mistake as it is, ActorError if a rank died or fell out of step:
        the others have been ended then, and the replica is lost.
        """
        if self.lost:
            raise ActorError(self.lost)
        reports, errors = self._collect(turn)
        if errors:
            self._raise(errors, is_over=len(reports) + len(errors) == self.num_ranks)
        counted = [
            self._account(reports[rank], turn.reads, rank, shares_node=shares_node) for rank in range(self.num_ranks)
        ]
        return merge_reports(counted)

    def cancel(self, turn: ShardTurn) -> None:
        """Nobody will ask for this turn. It is carried out all the same, on all ranks, and forgotten."""
        if turn.has_begun:
            self._tell(lambda actor: actor.forget_turn.options(concurrency_group="side").remote(turn.number))

    def release(self, segment: ShardedSegment) -> None:
        """Nobody will read this segment, which this group has written, any more."""
        for actor, parcels in zip(self._actors, segment.parcels, strict=True):
            for parcel in parcels:  # one by one: what failed to come must not keep what came
                actor.release.options(concurrency_group="side").remote(parcel)

    def end(self) -> None:
        """End all ranks. Safe to call twice."""
        self._tell(lambda actor: ray.kill(actor))

    def _source(self, segment: ShardedSegment, rank: int) -> Source:
        num_sources = len(segment.parcels)
        ranks = sources_of(self.spec.num_kv_heads, num_sources, Shard(rank, self.num_ranks))
        parts = zip(*(segment.parcels[source] for source in ranks), strict=True)
        return Source(tuple(Shard(source, num_sources) for source in ranks), tuple(parts))

    def _collect(self, turn: ShardTurn) -> tuple[dict[int, TurnReport], dict[int, Exception]]:
        """What the ranks have to say. When one has failed, the others have a while to say so, too."""
        rank_of = {reference: rank for rank, reference in enumerate(turn.reports)}
        reports: dict[int, TurnReport] = {}
        errors: dict[int, Exception] = {}
        waiting = list(turn.reports)
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=_GRACE_SECONDS if errors else None)
            if not ready:
                break
            try:
                reports[rank_of[ready[0]]] = ray.get(ready[0])
            except RayError as error:
                errors[rank_of[ready[0]]] = error
        return reports, errors

    def _raise(self, errors: Mapping[int, Exception], *, is_over: bool) -> None:
        """The one error that tells most: of a rank that died, then of one that failed, then of those that noticed."""
        rank = min(errors, key=lambda rank: (_weight(errors[rank]), rank))
        error = errors[rank]
        cause = error.cause if isinstance(error, RayTaskError) else None
        is_in_step = is_over and len(errors) == self.num_ranks and not any(map(_ends_replica, errors.values()))
        if is_in_step and isinstance(cause, InputError):
            raise cause from error
        if is_in_step:
            raise TurnError(_reason(cause or error)) from error
        what = "failed" if cause is not None else "died"
        self.lost = f"rank {rank} of {self.num_ranks} of agent {self.agent} {what}: {_reason(cause or error)}"
        self.end()
        raise ActorError(self.lost) from error

    def _account(
        self, report: TurnReport, whereabouts: Mapping[str, tuple[Whereabouts, ...]], rank: int, *, shares_node: bool
    ) -> TurnReport:
        node = self._nodes[rank]
        reads = []
        for read in report.reads:
            places = whereabouts[read.source]
            sources = sources_of(self.spec.num_kv_heads, len(places), Shard(rank, self.num_ranks))
            # Its heads come from these, most often from one; how far the farthest had to come is what counts.
            parts = [places[one].account(read, reader_node=node, shares_node=shares_node) for one in sources]
            link = max((part.link for part in parts), key=lambda link: link == "cross_node")
            reads.append(replace(read, link=link, moved_bytes=max(part.moved_bytes for part in parts)))
        return replace(report, reads=tuple(reads))

    def _tell(self, message: Callable[[Any], object]) -> None:
        for actor in self._actors:
            with contextlib.suppress(RayError, ValueError):  # it may be gone
                message(actor)


def _ends_replica(error: Exception) -> bool:
    """Whether the ranks are not in step any more."""
    return not isinstance(error, RayTaskError) or isinstance(error.cause, ShardError)


def _weight(error: Exception) -> int:
    if isinstance(error, RayActorError | OutOfMemoryError):
        return 0
    return 2 if isinstance(error, RayTaskError) and isinstance(error.cause, ShardError) else 1


def _reason(error: BaseException) -> str:
    """The last line of a remote error: Ray puts the whole remote traceback into the text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
