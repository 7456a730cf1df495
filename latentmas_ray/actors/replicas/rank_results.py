"""What the ranks of one replica report of one turn, as one report."""

from collections.abc import Sequence
from dataclasses import replace

from latentmas_ray.engine.turn import SegmentRead, TurnResult


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
