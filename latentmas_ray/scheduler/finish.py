"""What becomes of the questions that agents have finished: they are graded and become results, or are tried again."""

from collections.abc import Callable, Collection, Mapping, Sequence

from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.runs.results import ReturnedMemory
from latentmas_ray.scheduler.answers import FinishedQuestions, make_answers, returned_memories
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.batch_state import BatchState
from latentmas_ray.scheduler.protocol import TurnHandle
from latentmas_ray.scheduler.run import Run
from latentmas_ray.tasks.question import Question


def finish_question(run: Run, batch_state: BatchState, question_id: str, result: TurnResult, now: float) -> None:
    """Handle the answering agent's result for one question, whose turn may still run for others.

    It waits in `BatchState.early` until the other agents have results, which are part of an answer. Does nothing if the
    question is settled. `now` is in seconds of the scheduler's clock.
    """
    if question_id in batch_state.settled or question_id in batch_state.early:
        return
    if result.failed:
        settle_failed(run, batch_state, result)
        return
    batch_state.early[question_id] = result, _seconds(batch_state, now)
    finish_early(run, batch_state)


def finish_early(run: Run, batch_state: BatchState) -> None:
    """Grade the questions that were finished before the batch, if all other agents have results."""
    if not (batch_state.early and batch_state.awaits_only_answers):
        return
    answering = run.topology.answering_agent.name
    for question in batch_state.open_questions:
        if question.id in batch_state.early:
            result, seconds = batch_state.early.pop(question.id)
            results = {**batch_state.results, answering: result}
            _grade(run, batch_state, [question], results, seconds, is_single=True)


def finish_batch(run: Run, batch_state: BatchState, now: float) -> None:
    """Handle a batch with all its results: return its memory, or grade the answers that are left."""
    if run.request.goal == "think":
        for memory in _memories(run, batch_state.batch, batch_state.results).values():
            if memory.id not in batch_state.settled and run.add_result(memory):
                run.counters.count_memory(memory.id)
        return
    finish_early(run, batch_state)
    if left := batch_state.open_questions:
        _grade(run, batch_state, left, dict(batch_state.results), _seconds(batch_state, now))


def settle_failed(
    run: Run,
    batch_state: BatchState,
    result: TurnResult,
    cancel: Callable[[Sequence[TurnHandle], Collection[str]], None] | None = None,
) -> None:
    """Take the questions that a turn could not write out of their batch: each is tried again alone, or has failed.
    `cancel` is that of the runtime: parallel agents may still write them."""
    if not result.failed:
        return
    over = batch_state.settled | batch_state.early.keys()
    failed = {name: why for name, why in result.failed.items() if name not in over}
    batch_state.settled.update(failed)
    attempts, final = batch_state.retry.after_some(failed, run.settings.max_attempts)
    run.retry(attempts)
    run.add_failures(result.agent, final)
    if failed and cancel is not None:
        cancel(batch_state.unfinished, failed.keys())


def collect_grades(run: Run, timeout_seconds: float) -> bool:
    """Add graded answers to the run's results. Returns whether there were any. Raises what the grader raised."""
    graded = run.grading.collect(timeout_seconds)
    for finished, grades in graded:
        memories = _memories(run, finished.batch, finished.results) if run.request.keeps_memory else None
        for answer in make_answers(finished, run.topology_index, grades, memories=memories):
            if run.add_result(answer):
                run.counters.count_answer(answer)
    return bool(graded)


def _grade(
    run: Run,
    batch_state: BatchState,
    questions: Sequence[Question],
    results: Mapping[str, TurnResult],
    seconds: float,
    *,
    is_single: bool = False,
) -> None:
    """Start grading these questions. `results` must not change any more: a batch loses results when it is rewound."""
    batch_state.settled.update(question.id for question in questions)
    finished = FinishedQuestions(
        batch=batch_state.batch, questions=tuple(questions), results=results, seconds=seconds, is_single=is_single
    )
    final, answering = results[run.topology.answering_agent.name], run.topology.answering_agent.name
    texts = [final.texts[finished.index_in(answering, question, answering)] for question in questions]
    run.grading.submit(finished, list(zip(questions, texts, strict=True)))


def _memories(run: Run, batch: Batch, results: Mapping[str, TurnResult]) -> dict[str, ReturnedMemory]:
    found = returned_memories(batch, run.topology_index, results, _writers_model(run))
    return {memory.id: memory for memory in found}


def _writers_model(run: Run) -> str:
    """Return the name of the model of the memory that the answering agent reads: all of it has one model."""
    own = run.request.team.by_agent.get(run.topology.answering_agent.name)
    return "" if own is None else own.name


def _seconds(batch_state: BatchState, now: float) -> float:
    assert batch_state.admitted_at is not None
    return now - batch_state.admitted_at
