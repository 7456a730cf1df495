"""From the reports of all turns over a batch to one answer for each question."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate, pairwise

from latentmas_ray.engine.diagnostics.alarms import first_of_each_kind
from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.runs.results import AgentUse, Answer, ReturnedMemory, Transfer
from latentmas_ray.runs.traces import Trace
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.turns import TopologyIndex
from latentmas_ray.tasks import Grade


def make_answers(
    batch: Batch,
    route: TopologyIndex,
    reports: Mapping[str, TurnResult],
    seconds: float,
    grades: Mapping[str, Grade],
    *,
    kept: Mapping[str, ReturnedMemory] | None = None,
) -> list[Answer]:
    """The answers of a batch whose agents have all reported, in the order of its questions: those that have a grade.

    `grades` are by question id, and so is the memory `kept`; `seconds` is the wall clock from the batch's admission to
    its last report.
    """
    answering = route.topology.answering_agent.name
    final = reports[answering]
    transfers = _transfers(route, reports, len(batch.questions))
    answers = []
    for index, question in enumerate(batch.questions):
        if (grade := grades.get(question.id)) is None:
            continue
        answers.append(
            Answer(
                id=question.id,
                question=question.question,
                gold=question.gold,
                answer=final.texts[index],
                answer_token_ids=tuple(final.output_token_ids[index]),
                prediction=grade.prediction,
                correct=grade.correct,
                seconds=seconds,
                agents={
                    agent.name: _use(reports[agent.name], question.id, index, is_answering=agent.name == answering)
                    for agent in route.agents
                },
                transfers=transfers[index],
                batch_size=len(batch.questions),
                trace=_trace(question.id, route, reports),
                kept=(kept or {}).get(question.id),
            )
        )
    return answers


def kept_memories(
    batch: Batch, route: TopologyIndex, reports: Mapping[str, TurnResult], model: str
) -> list[ReturnedMemory]:
    """What the answering agent reads on each question of a batch, whose agents have reported their segments."""
    topology, answering = route.topology, route.topology.answering_agent.name
    reads = topology.memory_read_by(answering)
    is_read = {agent.name for agent in topology.text_ancestors(answering)} | set(route.read_by_answering)
    texts = [
        {
            agent.name: text
            for agent in route.agents
            if agent.name in is_read and (text := _text_in_context(reports[agent.name], question.id, index)) is not None
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
            pieces={name: reports[name].kept for name in route.read_by_answering},
            texts=texts[index],
        )
        for index, question in enumerate(batch.questions)
    ]


def _text_in_context(report: TurnResult, question_id: str, index: int) -> str | None:
    """What a reader's prompt holds of this agent: the text of a text agent, or what a latent one wrote instead of
    handing over memory."""
    if report.texts:
        return report.texts[index]
    return report.fallbacks.get(question_id)


def split_bytes(num_bytes: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Share out `num_bytes` in proportion to `weights`; the shares are whole and their sum is exact."""
    if not sum(weights):
        weights = (1,) * len(weights)
    total = sum(weights)
    edges = [num_bytes * edge // total for edge in accumulate(weights, initial=0)]
    return tuple(end - start for start, end in pairwise(edges))


def _use(report: TurnResult, question_id: str, index: int, *, is_answering: bool) -> AgentUse:
    return AgentUse(
        prompt_tokens=report.prompt_tokens[index],
        latent_steps=report.latent_steps,
        output_tokens=len(report.output_token_ids[index]) if report.output_token_ids else 0,
        memory_bytes=report.segment_bytes[index] if report.segment_bytes else 0,
        seconds=asdict(report.phases) | ({"trace": report.trace_seconds} if report.trace_seconds else {}),
        text=report.texts[index] if report.texts and not is_answering else report.fallbacks.get(question_id),
        alarms=first_of_each_kind(report.alarms[index]) if report.alarms else (),
    )


def _trace(question_id: str, route: TopologyIndex, reports: Mapping[str, TurnResult]) -> Trace | None:
    agents = {
        agent.name: reports[agent.name].traces[question_id]
        for agent in route.agents
        if question_id in reports[agent.name].traces
    }
    embeddings = reports[route.topology.answering_agent.name].embeddings
    return Trace(id=question_id, agents=agents, embeddings=embeddings) if agents else None


def _transfers(
    route: TopologyIndex, reports: Mapping[str, TurnResult], num_questions: int
) -> list[tuple[Transfer, ...]]:
    """The transfers of each question."""
    shared = [
        (
            agent.name,
            read,
            _shares(read.num_bytes, reports[read.source], num_questions),
            _shares(read.moved_bytes, reports[read.source], num_questions),
        )
        for agent in route.agents
        for read in reports[agent.name].reads
    ]
    return [
        tuple(
            Transfer(
                source=read.source,
                reader=reader,
                num_bytes=shares[index],
                moved_bytes=moved[index],
                transport=read.transport,
                mode=read.handover,
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
    # What travels may be more than the KV (a header) or less (recompute inputs): only the proportions are the
    # segment's.
    return split_bytes(num_bytes, source.segment_bytes or (0,) * num_questions)
