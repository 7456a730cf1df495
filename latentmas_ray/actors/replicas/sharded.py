"""One replica of an agent whose model is divided over several actors, one for each tensor-parallel rank.

Towards the driver it is one replica: a turn goes to all ranks, rank r's parcels go to rank r of the reader (or to the
rank that needs its heads), one report comes back, and if a rank dies the whole replica is one that died.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import ray

from latentmas_ray.actors.errors import get_outcome, ignoring_dead, meaning_of, reason, remote_error, turn_error
from latentmas_ray.actors.rank_actor import Source
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentLocation, SegmentRef, Turn, places_of
from latentmas_ray.engine.turn import SegmentRead, TurnRequest, TurnResult
from latentmas_ray.errors import ActorError, ShardError
from latentmas_ray.memory import TPRank
from latentmas_ray.memory.reslice import sources_of
from latentmas_ray.transport import Transport

_GRACE_SECONDS = 5.0  # for the other ranks to tell what happened, when one has failed
SKEW_SECONDS = 60.0  # for the other ranks to end a turn, when one has ended it


class ShardedReplica(Replica):
    """Made of actors of `RankActor` that somebody else has placed, rank by rank.

    It reads segments of replicas with any number of ranks, if they are groups, too.
    """

    @property
    def num_ranks(self) -> int:
        return len(self.actors)

    def start(self, transport: Transport | None = None) -> list[ray.ObjectRef]:
        """Have all ranks meet, and load."""
        address = self.actors[0].open_rendezvous.options(concurrency_group="side").remote()
        # Beside the turns: those that are submitted already may wait in all threads that are theirs.
        return [actor.load_shard.options(concurrency_group="side").remote(address, transport) for actor in self.actors]

    def submit(
        self, work: TurnRequest, segments: Mapping[str, SegmentRef], *, transport: Transport, overlap: bool
    ) -> tuple[SegmentRef | None, Turn]:
        self._num_turns += 1
        number, has_begun = self._num_turns, overlap and work.leaves_early and not self.stays
        chunks: list[tuple[ray.ObjectRef, ...]] = []
        reports, begun = [], []
        for rank, actor in enumerate(self.actors):
            sources = [
                self._source(segments[name], rank, keeps=transport.capabilities.readers_keep)
                for name in work.segment_order()
            ]
            if has_begun:
                begin = actor.begin_rank.options(num_returns=2, concurrency_group="turns")
                first, begun_ref = begin.remote(number, work, sources)
                last, report = actor.end_turn.options(num_returns=2, concurrency_group="ends").remote(begun_ref)
                chunks.append((first, last))
                begun.append(begun_ref)
            else:
                run = actor.run_rank.options(num_returns=2, concurrency_group="turns")
                segment, report = run.remote(number, work, sources)
                chunks.append((segment,))
            reports.append(report)
        writes = tuple(SegmentLocation(node, stays=self.stays) for node in self.nodes)
        turn = Turn(number, time.monotonic(), tuple(reports), places_of(segments, work), writes, tuple(begun))
        if work.thinks != "latent":
            return None, turn
        holders = [] if transport.capabilities.survives_producer else list(zip(self.actors, chunks, strict=True))
        return SegmentRef(tuple(chunks), writes, holders), turn

    def report(self, turn: Turn, *, shares_node: bool) -> TurnResult:
        """Waits for all ranks, once one is done. If a rank has died, hangs or is out of step, the replica is lost."""
        reports, errors = self._collect(turn)
        if errors:
            self._raise(errors, is_over=len(reports) + len(errors) == self.num_ranks)
        if missing := [str(rank) for rank in range(self.num_ranks) if rank not in reports]:
            raise ActorError(f"rank {', '.join(missing)} of {self.num_ranks} did not end a turn that others have ended")
        counted = [
            self._account(reports[rank], turn.reads, rank, shares_node=shares_node) for rank in range(self.num_ranks)
        ]
        return merge_reports(counted)

    def cancel(self, turn: Turn) -> None:
        """It is carried out all the same, on all ranks, and forgotten."""
        for actor in self.actors if turn.begun else ():
            with ignoring_dead("turn was not forgotten"):
                actor.forget_turn.options(concurrency_group="side").remote(turn.number)

    @property
    def _num_kv_heads(self) -> int:
        assert self.spec is not None, "accept() comes first"
        return self.spec.num_kv_heads

    def _source(self, segment: SegmentRef, rank: int, *, keeps: bool) -> Source:
        """Where a rank finds its heads. `keeps`: what comes from another node it keeps until it is released."""
        num_sources = len(segment.chunks)
        ranks = sources_of(self._num_kv_heads, num_sources, TPRank(rank, self.num_ranks))
        remote = [source for source in ranks if segment.whereabouts[source].source_node != self.nodes[rank]]
        if keeps and remote:
            chunks = tuple(chain(*(segment.chunks[source] for source in remote)))
            segment.holders.append((self.actors[rank], chunks))
        parts = zip(*(segment.chunks[source] for source in ranks), strict=True)
        return Source(tuple(TPRank(source, num_sources) for source in ranks), tuple(parts))

    def _collect(self, turn: Turn) -> tuple[dict[int, TurnResult], dict[int, Exception]]:
        """What the ranks have to say. When one is done, the others have a while to say so, too: the driver waits."""
        rank_of = {reference: rank for rank, reference in enumerate(turn.reports)}
        reports: dict[int, TurnResult] = {}
        errors: dict[int, Exception] = {}
        waiting = list(turn.reports)
        while waiting:
            patience = _GRACE_SECONDS if errors or self.state is ReplicaState.LOST else SKEW_SECONDS
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=patience)
            if not ready:
                break
            outcome = get_outcome(ready[0])
            if isinstance(outcome, Exception):
                errors[rank_of[ready[0]]] = outcome
            else:
                reports[rank_of[ready[0]]] = outcome
        return reports, errors

    def _raise(self, errors: Mapping[int, Exception], *, is_over: bool) -> None:
        """The one error that tells most: of a rank that died, then of one that failed, then of those that noticed."""
        rank = min(errors, key=lambda rank: (_weight(errors[rank]), rank))
        error = errors[rank]
        is_in_step = is_over and len(errors) == self.num_ranks and not any(map(_ends_replica, errors.values()))
        if is_in_step:
            raise turn_error(error)
        raised = remote_error(error)
        what = "died" if raised is None else "failed"
        raise ActorError(f"rank {rank} of {self.num_ranks} {what}: {reason(raised or error)}") from error

    def _account(
        self,
        report: TurnResult,
        whereabouts: Mapping[str, tuple[SegmentLocation, ...]],
        rank: int,
        *,
        shares_node: bool,
    ) -> TurnResult:
        node = self.nodes[rank]
        reads = []
        for read in report.reads:
            places = whereabouts[read.source]
            sources = sources_of(self._num_kv_heads, len(places), TPRank(rank, self.num_ranks))
            # Its heads come from these, most often from one; how far the farthest had to come is what counts.
            parts = [places[one].account(read, reader_node=node, shares_node=shares_node) for one in sources]
            link = max((part.link for part in parts), key=lambda link: link == "cross_node")
            reads.append(replace(read, link=link, moved_bytes=max(part.moved_bytes for part in parts)))
        return replace(report, reads=tuple(reads))


def _ends_replica(error: Exception) -> bool:
    """Whether the ranks are not in step any more."""
    raised = remote_error(error)
    return raised is None or isinstance(raised, ShardError)


def _weight(error: Exception) -> int:
    raised = remote_error(error)
    if raised is None:
        return 0 if meaning_of(error) is ActorError else 1
    return 2 if isinstance(raised, ShardError) else 1


def merge_reports(reports: Sequence[TurnResult]) -> TurnResult:
    """Rank 0's report, with the bytes of all ranks. They moved side by side, so times are those of the slowest."""
    first = reports[0]
    reads = tuple(map(_merge_reads, zip(*(report.reads for report in reports), strict=True)))
    segment_bytes = tuple(map(sum, zip(*(report.segment_bytes for report in reports), strict=True)))
    kept = tuple(piece for report in reports for piece in report.kept)
    return replace(first, segment_bytes=segment_bytes, reads=reads, kept=kept)


def _merge_reads(reads: Sequence[SegmentRead]) -> SegmentRead:
    return replace(
        reads[0],
        num_bytes=sum(read.num_bytes for read in reads),
        moved_bytes=sum(read.moved_bytes for read in reads),
        seconds=max(read.seconds for read in reads),
        exposed_seconds=max(read.exposed_seconds for read in reads),
        relative_error=max(read.relative_error for read in reads),
        link=max((read.link for read in reads), key=["same_process", "same_node", "cross_node"].index),
    )
