"""Build the answers of a batch from the results of its turns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from latentmas_ray.engine.diagnostics.alarms import first_of_each_kind
from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.runs.controls.adoption import adoption_of
from latentmas_ray.runs.hints.rows import hint_use
from latentmas_ray.runs.results import AgentUse, Answer, ReturnedMemory, Transfer
from latentmas_ray.runs.traces import Trace, judge_memory
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.turns import TopologyIndex
from latentmas_ray.tasks import Grade
from latentmas_ray.tasks.question import Question


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedQuestions:
    """Questions of a batch that the answering agent has finished, with the results of all agents.

    `is_single`: the answering agent's result is for the one question alone; those of the others are for the batch.
    """

    batch: Batch
    questions: tuple[Question, ...]
    results: Mapping[str, TurnResult]  # by agent
    seconds: float  # wall clock from the admission of the batch
    is_single: bool = False

    def index_in(self, agent: str, question: Question, answering: str) -> int:
        """Return the index of a question's values in the result of `agent`."""
        return 0 if self.is_single and agent == answering else self.index_in_batch(question)

    def index_in_batch(self, question: Question) -> int:
        """Return the index of a question in the batch."""
        return self._places[question.id]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {question.id: index for index, question in enumerate(self.batch.questions)}


def make_answers(
    finished: FinishedQuestions,
    topology_index: TopologyIndex,
    grades: Mapping[str, Grade],
    *,
    memories: Mapping[str, ReturnedMemory] | None = None,
) -> list[Answer]:
    """Return the answers of these questions, in their order. Questions without a grade are left out.

    `grades` and `memories` are by question id.
    """
    answering = topology_index.topology.answering_agent.name
    batch, results = finished.batch, finished.results
    transfers = _transfers(topology_index, results, len(batch.questions))
    traced = {question.id: _trace(question.id, topology_index, results) for question in finished.questions}
    traces = judge_memory({name: trace for name, trace in traced.items() if trace is not None})
    answers = []
    for question in finished.questions:
        if (grade := grades.get(question.id)) is None:
            continue
        at = {agent.name: finished.index_in(agent.name, question, answering) for agent in topology_index.agents}
        final = results[answering]
        uses = {
            name: _use(results[name], question.id, index, is_answering=name == answering) for name, index in at.items()
        }
        answers.append(
            Answer(
                id=question.id,
                question=question.question,
                gold=question.gold,
                answer=final.texts[at[answering]],
                answer_token_ids=tuple(final.output_token_ids[at[answering]]),
                prediction=grade.prediction,
                correct=grade.correct,
                numbers_from=grade.numbers_from,
                seconds=finished.seconds,
                agents=uses,
                transfers=transfers[finished.index_in_batch(question)],
                batch_size=len(batch.questions),
                adoption=adoption_of(question.corruption, grade),
                hint=hint_use(question, [use.text for use in uses.values() if use.text]),
                trace=traces.get(question.id),
                returned_memory=(memories or {}).get(question.id),
            )
        )
    return answers


def returned_memories(
    batch: Batch, topology_index: TopologyIndex, results: Mapping[str, TurnResult], model: str
) -> list[ReturnedMemory]:
    """Return, for each question of a complete batch, the memory that the answering agent reads."""
    topology, answering = topology_index.topology, topology_index.topology.answering_agent.name
    reads = topology.memory_read_by(answering)
    is_read = {agent.name for agent in topology.text_ancestors(answering)} | set(topology_index.read_by_answering)
    texts = [
        {
            agent.name: text
            for agent in topology_index.agents
            if agent.name in is_read and (text := _text_in_context(results[agent.name], question.id, index)) is not None
        }
        for index, question in enumerate(batch.questions)
    ]
    return [
        ReturnedMemory(
            id=question.id,
            question=question.question,
            model=model,
            index=index,
            reads=reads,
            chunks={name: results[name].kept for name in topology_index.read_by_answering},
            texts=texts[index],
        )
        for index, question in enumerate(batch.questions)
    ]


def _text_in_context(result: TurnResult, question_id: str, index: int) -> str | None:
    """Return the text of this agent in its readers' prompts: the text of a text agent, or the fallback text of a latent
    agent; None if there is none."""
    if result.texts:
        return result.texts[index]
    return result.fallbacks.get(question_id)


def split_bytes(num_bytes: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Split `num_bytes` in proportion to `weights` into whole numbers whose sum is exactly `num_bytes`."""
    if not sum(weights):
        weights = (1,) * len(weights)
    total = sum(weights)
    edges = [num_bytes * edge // total for edge in accumulate(weights, initial=0)]
    return tuple(end - start for start, end in pairwise(edges))


def _use(result: TurnResult, question_id: str, index: int, *, is_answering: bool) -> AgentUse:
    phases = result.question_phases[index] if result.question_phases else result.phases
    return AgentUse(
        prompt_tokens=result.prompt_tokens[index],
        latent_steps=result.steps_of(index),
        convergence=result.convergence[index] if result.convergence else None,
        output_tokens=len(result.output_token_ids[index]) if result.output_token_ids else 0,
        memory_bytes=result.segment_bytes[index] if result.segment_bytes else 0,
        evicted_bytes=result.evicted_bytes[index] if result.evicted_bytes else 0,
        seconds=vars(phases) | ({"trace": result.trace_seconds} if result.trace_seconds else {}),
        text=result.texts[index] if result.texts and not is_answering else result.fallbacks.get(question_id),
        alarms=first_of_each_kind(result.alarms[index]) if result.alarms else (),
        cut_off=result.cut_off[index] if result.cut_off else "no",
        has_own_seconds=bool(result.question_phases),
    )


def _trace(question_id: str, topology_index: TopologyIndex, results: Mapping[str, TurnResult]) -> Trace | None:
    agents = {
        agent.name: results[agent.name].traces[question_id]
        for agent in topology_index.agents
        if question_id in results[agent.name].traces
    }
    embeddings = results[topology_index.topology.answering_agent.name].embeddings
    return Trace(id=question_id, agents=agents, embeddings=embeddings) if agents else None


def _transfers(
    topology_index: TopologyIndex, results: Mapping[str, TurnResult], num_questions: int
) -> list[tuple[Transfer, ...]]:
    """Return the transfers of each question."""
    shared = [
        (
            agent.name,
            read,
            _shares(read.num_bytes, results[read.source], num_questions),
            _shares(read.moved_bytes, results[read.source], num_questions),
        )
        for agent in topology_index.agents
        for read in results[agent.name].reads
    ]
    return [
        tuple(
            Transfer(
                source=read.source,
                reader=reader,
                num_bytes=shares[index],
                moved_bytes=moved[index],
                transport=read.transport,
                mode=read.transfer_mode,
                codec=read.codec,
                relative_error=read.relative_error,
                link=read.link,
                seconds=read.seconds,
                exposed_seconds=read.exposed_seconds,
            )
            for reader, read, shares, moved in shared
        )
        for index in range(num_questions)
    ]


def _shares(num_bytes: int, source: TurnResult, num_questions: int) -> tuple[int, ...]:
    # The bytes sent can be more than the KV (a header) or less (recompute inputs): only the proportions come from the
    # segment.
    return split_bytes(num_bytes, source.segment_bytes or (0,) * num_questions)
