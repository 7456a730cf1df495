"""A replica whose model is divided over several actors, one per tensor-parallel rank.

The driver sees one replica: a turn goes to all ranks, rank r's chunks go to rank r of the reader (or to the ranks that
need its heads), the ranks' results are merged into one, and if one rank dies the replica is lost.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import get_args

import ray

from latentmas_ray.actors.errors import get_outcome, ignoring_dead, meaning_of, reason, remote_error, turn_error
from latentmas_ray.actors.rank_actor import ShardRefs
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentLocation, SegmentRef, Turn, locations_of
from latentmas_ray.engine.turn import Link, SegmentRead, TurnRequest, TurnResult
from latentmas_ray.errors import ActorError, ShardError
from latentmas_ray.memory import TPRank
from latentmas_ray.memory.reslice import sources_of
from latentmas_ray.transport import Transport

_NEAREST_FIRST = get_args(Link)
_GRACE_SECONDS = 5.0  # for the other ranks to report their error, once one has failed
SKEW_SECONDS = 60.0  # for the other ranks to end a turn, once one has ended it


class ShardedReplica(Replica):
    """A replica of `RankActor`s, which the manager has placed, in the order of their ranks.

    It reads segments of other sharded replicas, with any number of ranks.
    """

    @property
    def num_ranks(self) -> int:
        return len(self.actors)

    def start(self, transport: Transport | None = None) -> list[ray.ObjectRef]:
        """Let all ranks join one process group and load their shards; see `Replica.start`."""
        address = self.actors[0].open_rendezvous.options(concurrency_group="side").remote()
        # In another concurrency group than turns: those that are submitted already may occupy all threads of theirs.
        return [actor.load_shard.options(concurrency_group="side").remote(address, transport) for actor in self.actors]

    def submit(
        self, work: TurnRequest, segments: Mapping[str, SegmentRef], *, transport: Transport, overlap: bool
    ) -> tuple[SegmentRef | None, Turn]:
        self._num_turns += 1
        number, overlaps = self._num_turns, overlap and self.can_overlap(work)
        chunks: list[tuple[ray.ObjectRef, ...]] = []
        results, begun = [], []
        for rank, actor in enumerate(self.actors):
            keeps = transport.capabilities.readers_keep
            reads = [
                self._shard_refs(segment, rank, keeps=keeps and name not in work.translated)
                for name, segment in segments.items()
            ]
            if overlaps:
                begin = actor.begin_rank.options(num_returns=2, concurrency_group="turns")
                first, begun_ref = begin.remote(number, work, reads)
                last, result = actor.end_turn.options(num_returns=2, concurrency_group="ends").remote(begun_ref)
                chunks.append((first, last))
                begun.append(begun_ref)
            else:
                run = actor.run_rank.options(num_returns=2, concurrency_group="turns")
                segment, result = run.remote(number, work, reads)
                chunks.append((segment,))
            results.append(result)
        writes = tuple(map(self.new_location, range(self.num_ranks)))
        turn = Turn(number, time.monotonic(), tuple(results), locations_of(segments), writes, tuple(begun))
        if work.thinks != "latent":
            return None, turn
        holders = [] if transport.capabilities.survives_producer else list(zip(self.actors, chunks, strict=True))
        writer = self if self.colocated else None
        return SegmentRef(tuple(chunks), writes, holders, work.segment_id, work.sent_over, writer), turn

    def result(self, turn: Turn) -> TurnResult:
        """Wait for all ranks once one is done. Raises ActorError if a rank died, hangs or is out of step."""
        results, errors = self._collect(turn)
        if errors:
            self._raise(errors, is_over=len(results) + len(errors) == self.num_ranks)
        if missing := [str(rank) for rank in range(self.num_ranks) if rank not in results]:
            raise ActorError(f"rank {', '.join(missing)} of {self.num_ranks} did not end a turn that others have ended")
        located = [self._record_reads(results[rank], turn.reads, rank) for rank in range(self.num_ranks)]
        return merge_results(located)

    def cancel(self, turn: Turn) -> None:
        """All ranks still execute the turn; its result is dropped."""
        for actor in self.actors if turn.begun else ():
            with ignoring_dead("turn was not discarded"):
                actor.discard_turn.options(concurrency_group="side").remote(turn.number)

    @property
    def _num_kv_heads(self) -> int:
        assert self.spec is not None, "accept() comes first"
        return self.spec.num_kv_heads

    def _shard_refs(self, segment: SegmentRef, rank: int, *, keeps: bool) -> ShardRefs:
        """Return references to the shards that hold a rank's heads.

        `keeps`: the rank stores chunks from other nodes until they are released.
        """
        num_sources = len(segment.chunks)
        ranks = sources_of(self._num_kv_heads, num_sources, TPRank(rank, self.num_ranks))
        remote = [source for source in ranks if segment.locations[source].source_node != self.nodes[rank]]
        if keeps and remote:
            chunks = tuple(chain(*(segment.chunks[source] for source in remote)))
            segment.holders.append((self.actors[rank], chunks))
        parts = zip(*(segment.chunks[source] for source in ranks), strict=True)
        return ShardRefs(tuple(TPRank(source, num_sources) for source in ranks), tuple(parts))

    def _collect(self, turn: Turn) -> tuple[dict[int, TurnResult], dict[int, Exception]]:
        """Return the ranks' results and errors. Once one rank is done, wait a limited time for the others."""
        rank_of = {reference: rank for rank, reference in enumerate(turn.results)}
        results: dict[int, TurnResult] = {}
        errors: dict[int, Exception] = {}
        waiting = list(turn.results)
        while waiting:
            timeout = _GRACE_SECONDS if errors or self.state is ReplicaState.LOST else SKEW_SECONDS
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=timeout)
            if not ready:
                break
            outcome = get_outcome(ready[0])
            if isinstance(outcome, Exception):
                errors[rank_of[ready[0]]] = outcome
            else:
                results[rank_of[ready[0]]] = outcome
        return results, errors

    def _raise(self, errors: Mapping[int, Exception], *, is_over: bool) -> None:
        """Raise the most specific error: of a rank that died, then of one that failed, then of those that noticed."""
        rank = min(errors, key=lambda rank: (_weight(errors[rank]), rank))
        error = errors[rank]
        is_in_step = is_over and len(errors) == self.num_ranks and not any(map(ends_replica, errors.values()))
        if is_in_step:
            raise turn_error(error)
        raised = remote_error(error)
        what = "died" if raised is None else "failed"
        raise ActorError(f"rank {rank} of {self.num_ranks} {what}: {reason(raised or error)}") from error

    def _record_reads(
        self,
        result: TurnResult,
        locations: Mapping[str, tuple[SegmentLocation, ...]],
        rank: int,
    ) -> TurnResult:
        place = self.place_of(rank)
        reads = []
        for read in result.reads:
            shards = locations[read.source]
            sources = sources_of(self._num_kv_heads, len(shards), TPRank(rank, self.num_ranks))
            # Its heads come from these shards, most often from one; the slowest link counts.
            parts = [shards[one].record_read(read, place) for one in sources]
            link = max((part.link for part in parts), key=_NEAREST_FIRST.index)
            reads.append(replace(read, link=link, moved_bytes=max(part.moved_bytes for part in parts)))
        return replace(result, reads=tuple(reads))


def ends_replica(error: Exception) -> bool:
    """Return whether the ranks are out of step after this error."""
    raised = remote_error(error)
    return raised is None or isinstance(raised, ShardError)


def _weight(error: Exception) -> int:
    raised = remote_error(error)
    if raised is None:
        return 0 if meaning_of(error) is ActorError else 1
    return 2 if isinstance(raised, ShardError) else 1


def merge_results(results: Sequence[TurnResult]) -> TurnResult:
    """Merge the ranks' results of one turn: rank 0's, with the bytes of all ranks and the times of the slowest."""
    first = results[0]
    reads = tuple(map(_merge_reads, zip(*(result.reads for result in results), strict=True)))
    segment_bytes = tuple(map(sum, zip(*(result.segment_bytes for result in results), strict=True)))
    evicted_bytes = tuple(map(sum, zip(*(result.evicted_bytes for result in results), strict=True)))
    kept = tuple(piece for result in results for piece in result.kept)
    return replace(first, segment_bytes=segment_bytes, evicted_bytes=evicted_bytes, reads=reads, kept=kept)


def _merge_reads(reads: Sequence[SegmentRead]) -> SegmentRead:
    return replace(
        reads[0],
        transport="+".join(dict.fromkeys(name for read in reads for name in read.transport.split("+"))),
        num_bytes=sum(read.num_bytes for read in reads),
        moved_bytes=sum(read.moved_bytes for read in reads),
        seconds=max(read.seconds for read in reads),
        exposed_seconds=max(read.exposed_seconds for read in reads),
        relative_error=max(read.relative_error for read in reads),
        link=max((read.link for read in reads), key=_NEAREST_FIRST.index),
    )
