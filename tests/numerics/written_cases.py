"""Questions with every kind of memory, and the static batch's answers: for engines that write continuously."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.memory import MergedLayout, Segment, SegmentChunk, TPRank, merge_layout
from latentmas_ray.memory.reslice import reslice
from latentmas_ray.models import LanguageModel
from latentmas_ray.topology.agent import HandsOver
from latentmas_ray.writing.continuous import ContinuousEngine
from latentmas_ray.writing.text_engine import TextRequest
from tests.cases.writing import Written, question_memory
from tests.numerics.families import make_lm
from tests.numerics.turns import begin, memory, prompts_of, think

NUM_STEPS = 3
SETTINGS = (
    Sampling(max_new_tokens=9),
    Sampling(max_new_tokens=14, temperature=1.0),
    Sampling(max_new_tokens=1, temperature=0.6, top_p=0.9),
    Sampling(max_new_tokens=20, temperature=0.6, top_p=0.9, seed=7),
    Sampling(max_new_tokens=14, temperature=1.3, top_p=0.8),
)
KINDS = ("none", "all", "latents", "prompt", "branches", "shards")
# About one token in twelve ends a text, so that rows leave at different steps.
STOPS = frozenset(range(3, 25))
QUESTIONS = tuple((kind, number) for kind in KINDS for number in range(3))


@dataclass(frozen=True)
class Case:
    """A question and what the static path answers when it is asked alone."""

    request: TextRequest
    answer: list[int]
    is_cut_off: bool


def layout_of(engine: Engine, kind: str, number: int) -> MergedLayout | None:
    """The memory that a question of this kind reads."""
    if kind == "none":
        return None
    hands_over: HandsOver = kind if kind in ("latents", "prompt") else "all"  # type: ignore[assignment]
    first = think(engine, prompts_of([5 + 9 * number], number), NUM_STEPS, hands_over=hands_over)
    is_branch = kind == "branches"
    before = None if is_branch else merge_layout([memory("a")], {"a": first}, 1)
    second = think(engine, prompts_of([3 + number], 40 + number), NUM_STEPS, before, hands_over=hands_over)
    reads = [memory("a"), memory("b")] if is_branch else [memory("a", "b")]
    return merge_layout(reads, {"a": first, "b": second}, 1)


def resliced(segment: Segment) -> SegmentChunk:
    """The same memory as it comes from two ranks, each with half of the heads."""
    kv_LCHTD, num_heads = segment.kv_LCHTD, segment.meta.spec.num_kv_heads // 2
    parts = [
        SegmentChunk.from_tensor(
            replace(segment.meta, spec=segment.meta.spec.of_shard(TPRank(rank, 2))),
            (0,),
            segment.lengths,
            kv_LCHTD[:, :, rank * num_heads : (rank + 1) * num_heads].contiguous(),
            segment.recompute_inputs,
        )
        for rank in range(2)
    ]
    return reslice(parts, segment.meta.spec)


def make_case(engine: Engine, kind: str, number: int, sampling: Sampling) -> Case:
    layout = layout_of(engine, kind, number)
    prompt = prompts_of([2 + 11 * number], 90 + number)[0]
    own = None if layout is None else question_memory(layout)
    if layout is not None and kind == "shards":
        assert all(isinstance(placed.segment, Segment) for placed in layout.segments)
        own = question_memory(layout, {one.agent: resliced(one.segment) for one in layout.segments})  # type: ignore[arg-type]
        assert len(own.parts) == 4
    session = begin(engine, [prompt], layout)
    session.question_ids = [f"{kind}{number}"]
    answer = session.decode(sampling, "answerer")[0]
    request = TextRequest(
        key=f"{kind}{number}",
        question_id=f"{kind}{number}",
        agent="answerer",
        prompt_ids=tuple(prompt),
        sampling=sampling,
        memory=own,
    )
    return Case(request, answer, session.cut_off[0] != "no")


def make_cases(lm: LanguageModel, folder: Path, questions: Sequence[tuple[str, int]] = QUESTIONS) -> dict[str, Case]:
    engine = Engine(lm, thoughts="realign", cache_dir=folder)
    cases = [
        make_case(engine, kind, number, SETTINGS[index % len(SETTINGS)])
        for index, (kind, number) in enumerate(questions)
    ]
    return {case.request.key: case for case in cases}


def with_stops(family: str) -> LanguageModel:
    lm = make_lm(family)
    lm.chat.stop_ids = lm.chat.stop_ids | STOPS
    return lm


def check(written: dict[str, Written], cases: dict[str, Case]) -> None:
    for key, one in written.items():
        assert one.tokens == cases[key].answer, key
        assert one.end == ("length" if cases[key].is_cut_off else "stop"), key


def finish(engine: ContinuousEngine, started: Sequence[Case]) -> dict[str, Written]:
    """Step until the cases that have started have ended."""
    written = {case.request.key: Written() for case in started}
    while (outputs := engine.step()) or engine.queued:  # without outputs if one had to be set aside
        for output in outputs:
            written[output.key].tokens += output.token_ids
            written[output.key].end = output.end
            written[output.key].error = output.error
    return written
