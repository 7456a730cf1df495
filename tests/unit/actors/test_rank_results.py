"""One replica of several ranks gives one report of a turn."""

from latentmas_ray.actors.replicas.rank_results import merge_reports
from latentmas_ray.engine.turn import Link, Phases, SegmentRead, TurnResult


def report(rank: int, link: Link = "same_node") -> TurnResult:
    read = SegmentRead(
        source="planner",
        num_bytes=100 + rank,
        transport="gloo",
        seconds=1.0 + rank,
        exposed_seconds=0.5 - rank / 10,
        relative_error=0.01 * rank,
        link=link,
        moved_bytes=50 * rank,
    )
    return TurnResult(
        agent="critic",
        prompt_tokens=(3, 4),
        latent_steps=2,
        phases=Phases(think=1.0 + rank),
        segment_bytes=(10, 20 + rank),
        memory_tokens=(5, 6),
        reads=(read,),
    )


def test_bytes_are_of_all_ranks_and_times_of_the_slowest() -> None:
    merged = merge_reports([report(0), report(1, "cross_node")])
    assert merged.segment_bytes == (20, 41)
    assert (merged.prompt_tokens, merged.latent_steps, merged.memory_tokens) == ((3, 4), 2, (5, 6))
    assert merged.phases == Phases(think=1.0)
    [read] = merged.reads
    assert (read.num_bytes, read.moved_bytes) == (201, 50)
    assert (read.seconds, read.exposed_seconds, read.relative_error) == (2.0, 0.5, 0.01)
    assert (read.link, read.transport) == ("cross_node", "gloo")


def test_one_rank_reports_for_itself() -> None:
    assert merge_reports([report(0)]) == report(0)


def test_an_agent_that_reads_nothing_and_writes_nothing() -> None:
    plain = TurnResult(agent="last", prompt_tokens=(1,), texts=("yes",))
    assert merge_reports([plain, plain]) == plain
