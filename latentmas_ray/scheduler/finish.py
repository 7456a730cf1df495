"""What becomes of the questions that agents have finished: they are graded and become results, or are tried again."""

from collections.abc import Callable, Collection, Mapping, Sequence

from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.runs.results import ReturnedMemory
from latentmas_ray.scheduler.answers import FinishedQuestions, make_answers, returned_memories
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.batch_state import BatchState
from latentmas_ray.scheduler.protocol import TurnDone, TurnHandle
from latentmas_ray.scheduler.retry import RetryState, TurnFailure
from latentmas_ray.scheduler.run import Run
from latentmas_ray.tasks.question import Question


def finish_question(run: Run, batch_state: BatchState, question_id: str, result: TurnResult, now: float) -> None:
    """Handle an answering agent's result for one question, whose turn may still run for others.

    It waits in `BatchState.early` until the other agents have results, which are part of an answer. Does nothing if the
    question is settled. `now` is in seconds of the scheduler's clock.
    """
    early = batch_state.early.get(question_id, {})
    if question_id in batch_state.settled or result.agent in early:
        return
    if result.failed:
        settle_failed(run, batch_state, result)
        if question_id in batch_state.settled:
            return
    batch_state.early[question_id] = {**early, result.agent: result}
    batch_state.early_seconds[question_id] = _seconds(batch_state, now)
    finish_early(run, batch_state)


def finish_early(run: Run, batch_state: BatchState) -> None:
    """Grade the questions that were finished before the batch, if all other agents have results."""
    if not (batch_state.early and batch_state.awaits_only_answers):
        return
    for question in batch_state.open_questions:
        if question.id in batch_state.early and batch_state.is_answered(question.id):
            early = batch_state.early.pop(question.id)
            seconds = batch_state.early_seconds.pop(question.id)
            results = {**batch_state.results, **early}
            _grade(run, batch_state, [question], results, seconds, single=frozenset(early))


def finish_batch(run: Run, batch_state: BatchState, now: float) -> None:
    """Handle a batch with all its results, which ends: return its memory, or grade the answers that are left."""
    run.batch_states.remove(batch_state)
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
    """Take the questions that a turn could not write out of their batch: each is tried again alone, or has failed. Of
    several answering agents one that fails for good has no answer, and the others answer. `cancel` is that of the
    runtime: parallel agents may still write them."""
    if not result.failed:
        return
    failed = {
        name: why
        for name, why in result.failed.items()
        if name not in batch_state.settled and result.agent not in batch_state.early.get(name, {})
    }
    for name in [one for one in failed if _others_answer(run, batch_state, one, result.agent)]:
        batch_state.no_answer.setdefault(name, {})[result.agent] = failed.pop(name)
    batch_state.settled.update(failed)
    attempts, final = batch_state.retry.after_some(failed, run.settings.max_attempts)
    run.retry(attempts)
    run.add_failures(result.agent, final)
    if failed and cancel is not None:
        cancel(batch_state.unfinished, failed.keys())


def withdraw(run: Run, cancel: Callable[[Sequence[TurnHandle], Collection[str]], None]) -> list[BatchState]:
    """Take the questions that the caller has withdrawn out of a run; `cancel` is that of the runtime. Returns the
    batches that owe nothing any more."""
    if run.request.withdrawn is None or not (ids := run.request.withdrawn.take()):
        return []
    run.withdraw(ids)
    done = []
    for batch_state in run.batch_states:
        if mine := {question.id for question in batch_state.open_questions}.intersection(ids):
            batch_state.settled |= mine
            cancel(batch_state.unfinished, mine)
            if not batch_state.open_questions:
                done.append(batch_state)
    return done


def _others_answer(run: Run, batch_state: BatchState, question_id: str, agent: str) -> bool:
    """Whether a question that has failed at an agent for good may be answered by others."""
    without = {*batch_state.no_answer.get(question_id, {}), agent}
    is_final = batch_state.retry.number >= run.settings.max_attempts
    return is_final and run.others_vote(agent) and not without.issuperset(run.topology_index.answering)


def attempts_after(run: Run, batch_state: BatchState, failure: TurnFailure) -> tuple[list[RetryState], dict[str, str]]:
    """See `RetryState.after`."""
    most, others_vote = run.settings.max_attempts, run.others_vote(failure.agent)
    return batch_state.open_attempt.after(failure, most, others_vote=others_vote)


def failed_alone(run: Run, batch_state: BatchState, failure: TurnFailure, handle: TurnHandle) -> TurnDone | None:
    """Return the turn of an answering agent that has failed for good, as one without an answer, if others may answer
    the batch's only question; None if the batch has failed with it."""
    retry = batch_state.retry
    is_doubtful = failure.is_loss and not failure.lacks_memory and not retry.runs_alone
    (question, *more) = batch_state.batch.questions
    if more or is_doubtful or failure.agent != handle.agent:
        return None
    if not _others_answer(run, batch_state, question.id, handle.agent):
        return None
    why = failure.refused.get(question.id, failure.reason)
    return TurnDone(
        handle,
        TurnResult(
            agent=handle.agent,
            prompt_tokens=(0,),
            output_token_ids=((),),
            texts=("",),
            cut_off=("no",),
            failed={question.id: why},
        ),
    )


def collect_grades(run: Run, timeout_seconds: float) -> bool:
    """Add graded answers to the run's results. Returns whether there were any. Raises what the grader raised."""
    graded = run.grading.collect(timeout_seconds)
    for finished, grades in graded:
        memories = _memories(run, finished.batch, finished.results) if run.request.keeps_memory else None
        for answer in make_answers(finished, run.topology_index, grades, run.settings, memories=memories):
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
    single: frozenset[str] = frozenset(),
) -> None:
    """Start grading these questions. `results` must not change any more: a batch loses results when it is rewound.
    Those of the agents `single` are for the one question alone."""
    batch_state.settled.update(question.id for question in questions)
    finished = FinishedQuestions(
        batch=batch_state.batch,
        questions=tuple(questions),
        results=results,
        seconds=seconds,
        single=single,
        failed={question.id: batch_state.no_answer.get(question.id, {}) for question in questions},
    )
    answering = run.topology_index.answering
    texts = [[text.text for _, _, text in finished.texts_of(question, answering)] for question in questions]
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
