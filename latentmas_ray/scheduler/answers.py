"""Build the answers of a batch from the results of its turns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise

from latentmas_ray.engine.diagnostics.alarms import first_of_each_kind
from latentmas_ray.engine.turn import CutOff, Phases, SampleText, TurnResult
from latentmas_ray.runs.controls.adoption import adoption_of
from latentmas_ray.runs.decisions.decide import chosen_vote, decide_one
from latentmas_ray.runs.decisions.votes import AnswerVote, RowDecision
from latentmas_ray.runs.grading import GradedAnswers
from latentmas_ray.runs.hints.rows import hint_use
from latentmas_ray.runs.results import AgentUse, Answer, ReturnedMemory, Transfer
from latentmas_ray.runs.traces import Trace, judge_memory
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.turns import DriverSettings, TopologyIndex
from latentmas_ray.seeds import sample_seed
from latentmas_ray.tasks import Grade
from latentmas_ray.tasks.question import Question


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedQuestions:
    """Questions of a batch that the answering agents have finished, with the results of all agents.

    The results of the agents `single` are for the one question alone; those of the others are for the batch. `failed`
    are answering agents without an answer, by question, each with the reason: others have answered.
    """

    batch: Batch
    questions: tuple[Question, ...]
    results: Mapping[str, TurnResult]  # by agent
    seconds: float  # wall clock from the admission of the batch
    single: frozenset[str] = frozenset()
    failed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def index_in(self, agent: str, question: Question) -> int:
        """Return the index of a question's values in the result of `agent`."""
        return 0 if agent in self.single else self.index_in_batch(question)

    def texts_of(self, question: Question, answering: Sequence[str]) -> list[tuple[str, int, SampleText]]:
        """Return all answers to a question, each with its agent and its number among that agent's."""
        failed = self.failed.get(question.id, {})
        return [
            (agent, sample, text)
            for agent in answering
            if agent not in failed
            for sample, text in enumerate(self.results[agent].texts_of(self.index_in(agent, question)))
        ]

    def index_in_batch(self, question: Question) -> int:
        """Return the index of a question in the batch."""
        return self._places[question.id]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {question.id: index for index, question in enumerate(self.batch.questions)}


def make_answers(
    finished: FinishedQuestions,
    topology_index: TopologyIndex,
    graded: Mapping[str, GradedAnswers],
    settings: DriverSettings,
    *,
    memories: Mapping[str, ReturnedMemory] | None = None,
) -> list[Answer]:
    """Return the answers of these questions, in their order. Questions without a grade are left out.

    `graded` and `memories` are by question id. Of several answers to a question the majority's becomes the run's.
    """
    batch, results = finished.batch, finished.results
    seconds = {
        agent.name: _seconds_of(results[agent.name].phases, results[agent.name]) for agent in topology_index.agents
    }
    transfers = _transfers(topology_index, results, len(batch.questions))
    traced = {question.id: _trace(question.id, topology_index, results) for question in finished.questions}
    traces = judge_memory({name: trace for name, trace in traced.items() if trace is not None})
    answers = []
    for question in finished.questions:
        if (found := graded.get(question.id)) is None:
            continue
        at = {agent.name: finished.index_in(agent.name, question) for agent in topology_index.agents}
        made = _decide(finished, question, found, topology_index, settings)
        uses = {
            name: _use(results[name], question.id, index, seconds[name], is_answering=name in topology_index.answering)
            for name, index in at.items()
        }
        answers.append(
            Answer(
                id=question.id,
                question=question.question,
                gold=question.gold,
                answer=made.text.text,
                answer_token_ids=made.text.token_ids,
                prediction=made.grade.prediction,
                correct=made.grade.correct,
                numbers_from=made.grade.numbers_from,
                votes=made.votes,
                decision=made.decision,
                seconds=finished.seconds,
                agents=uses,
                transfers=transfers[finished.index_in_batch(question)],
                batch_size=len(batch.questions),
                adoption=adoption_of(question.corruption, made.grade),
                hint=hint_use(question, [use.text for use in uses.values() if use.text]),
                trace=traces.get(question.id),
                returned_memory=(memories or {}).get(question.id),
            )
        )
    return answers


@dataclass(frozen=True, kw_only=True)
class _Made:
    """The answer to one question, and how it was made."""

    text: SampleText
    grade: Grade
    votes: tuple[AnswerVote, ...] = ()
    decision: RowDecision | None = None


def _decide(
    finished: FinishedQuestions,
    question: Question,
    graded: GradedAnswers,
    index: TopologyIndex,
    settings: DriverSettings,
) -> _Made:
    """Return the only answer to a question, or that of the majority: a rule that needs all questions of the run decides
    again when these are in."""
    texts = finished.texts_of(question, index.answering)
    if not settings.votes(index):
        return _Made(text=texts[0][2], grade=graded.grades[0])
    seed = settings.sampling.seed
    cast = {
        (agent, sample): AnswerVote(
            agent=agent,
            sample=sample,
            seed=sample_seed(seed, sample),
            answer=text.text,
            answer_token_ids=text.token_ids,
            prediction=grade.prediction,
            label=label,
            correct=grade.correct,
            numbers_from=grade.numbers_from,
            adopted=grade.adopted,
            cut_off=text.cut_off,
        )
        for (agent, sample, text), grade, label in zip(texts, graded.grades, graded.labels, strict=True)
    }
    failed = finished.failed.get(question.id, {})
    votes = tuple(
        cast.get((agent, sample))
        or AnswerVote(agent=agent, sample=sample, seed=sample_seed(seed, sample), answer="", error=failed.get(agent))
        for agent in index.answering
        for sample in range(settings.samples)
    )
    decision = decide_one(question, votes, settings.decision)
    vote = chosen_vote(votes, decision.label)
    assert vote is not None, "a question without any answer has failed"
    text = SampleText(token_ids=vote.answer_token_ids, text=vote.answer)
    return _Made(text=text, grade=vote.grade, votes=votes, decision=decision)


def returned_memories(
    batch: Batch, topology_index: TopologyIndex, results: Mapping[str, TurnResult], model: str
) -> list[ReturnedMemory]:
    """Return, for each question of a complete batch, the memory that the answering agent reads."""
    topology, (answering,) = topology_index.topology, topology_index.answering
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


def _seconds_of(phases: Phases, result: TurnResult) -> dict[str, float]:
    """Return the seconds of a turn's phases by their names."""
    return {**vars(phases), **({"trace": result.trace_seconds} if result.trace_seconds else {})}


def _use(
    result: TurnResult, question_id: str, index: int, seconds: Mapping[str, float], *, is_answering: bool
) -> AgentUse:
    """Return what an agent used on a question; `seconds` are those of the whole batch."""
    if result.question_phases:
        seconds = _seconds_of(result.question_phases[index], result)
    return AgentUse(
        prompt_tokens=result.prompt_tokens[index],
        latent_steps=result.steps_of(index),
        convergence=result.convergence[index] if result.convergence else None,
        output_tokens=result.num_written(index),
        memory_bytes=result.segment_bytes[index] if result.segment_bytes else 0,
        evicted_bytes=result.evicted_bytes[index] if result.evicted_bytes else 0,
        seconds=seconds,
        text=result.texts[index] if result.texts and not is_answering else result.fallbacks.get(question_id),
        alarms=first_of_each_kind(result.alarms[index]) if result.alarms else (),
        cut_off=_cut_off(result, index),
        has_own_seconds=bool(result.question_phases),
    )


def _cut_off(result: TurnResult, index: int) -> CutOff:
    """Why a text of a question ended early: of several the first that did."""
    if result.samples:
        return next((one.cut_off for one in result.samples[index] if one.cut_off != "no"), "no")
    return result.cut_off[index] if result.cut_off else "no"


def _trace(question_id: str, topology_index: TopologyIndex, results: Mapping[str, TurnResult]) -> Trace | None:
    agents = {
        agent.name: results[agent.name].traces[question_id]
        for agent in topology_index.agents
        if question_id in results[agent.name].traces
    }
    embeddings = next((one.embeddings for one in results.values() if one.embeddings is not None), None)
    return Trace(id=question_id, agents=agents, embeddings=embeddings) if agents else None


def _transfers(
    topology_index: TopologyIndex, results: Mapping[str, TurnResult], num_questions: int
) -> list[tuple[Transfer, ...]]:
    """Return the transfers of each question."""
    known: dict[tuple[str, int], tuple[int, ...]] = {}  # several agents read the same segment

    def shares(num_bytes: int, source: str) -> tuple[int, ...]:
        if (found := known.get((source, num_bytes))) is None:
            found = known[source, num_bytes] = _shares(num_bytes, results[source], num_questions)
        return found

    shared = [
        (agent.name, read, shares(read.num_bytes, read.source), shares(read.moved_bytes, read.source))
        for agent in topology_index.agents
        for read in results[agent.name].reads
    ]
    return [
        tuple(
            Transfer(
                source=read.source,
                reader=reader,
                num_bytes=sent[index],
                moved_bytes=moved[index],
                transport=read.transport,
                mode=read.transfer_mode,
                codec=read.codec,
                relative_error=read.relative_error,
                link=read.link,
                seconds=read.seconds,
                exposed_seconds=read.exposed_seconds,
            )
            for reader, read, sent, moved in shared
        )
        for index in range(num_questions)
    ]


def _shares(num_bytes: int, source: TurnResult, num_questions: int) -> tuple[int, ...]:
    # The bytes sent can be more than the KV (a header) or less (recompute inputs): only the proportions come from the
    # segment.
    return split_bytes(num_bytes, source.segment_bytes or (0,) * num_questions)
