"""The state of one batch while its turns run: which turns are ready, which questions are settled, what is freed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from latentmas_ray.engine.turn import GivenMemory, SentAs, TurnRequest, TurnResult
from latentmas_ray.scheduler.memory_budget import SegmentBound
from latentmas_ray.scheduler.protocol import TurnHandle
from latentmas_ray.scheduler.retry import RetryState, TurnFailure
from latentmas_ray.scheduler.turns import DriverSettings, TopologyIndex, build_turn, segment_bounds
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology.agent import Agent


class BatchState:
    """The state of one batch: which turns are submitted, which have results, which handles are still needed.

    A turn is ready when the turns whose segments it reads are *submitted* (the runtime chains the references) and the
    turns whose texts are in its prompt have *results*. With guard `text` any prompt can contain text, so a turn is
    ready only when all turns whose segments it reads have results; so is one that lacked memory before. A handle is
    dropped when its turn and all turns that read its segment have results.

    A question is settled once this batch owes nothing more for it: it is answered, or failed, or is tried again alone.
    The turns of the batch still have it, because segments are those of the whole batch, but no text is written for it.
    """

    def __init__(
        self,
        retry: RetryState,
        topology_index: TopologyIndex,
        settings: DriverSettings,
        transfer_modes: Mapping[str, SentAs] | None = None,
        *,
        given: GivenMemory | None = None,
        keeps_memory: bool = False,
        translated: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Render the prompts that need no other agent's text. Raises TopologyError if a prompt cannot be rendered.

        `given` is memory that the answering agent reads instead of other agents' memory, or that every agent reads
        before it. With `keeps_memory` the results contain the segments that the answering agent reads.
        """
        self.retry = retry
        self.batch = retry.batch
        # By agent and whether they lacked memory: turns that did, and turns that may have killed their actor.
        self._losses: Counter[tuple[str, bool]] = Counter()
        self.lost_segments: set[str] = set()  # agents whose turns have results and whose segments are lost
        self.handles: dict[str, TurnHandle] = {}
        self.results: dict[str, TurnResult] = {}
        # By question and answering agent: its result for the question alone, until all other agents have their results;
        # and the seconds from admission to the last of them.
        self.early: dict[str, dict[str, TurnResult]] = {}
        self.early_seconds: dict[str, float] = {}
        # By question and answering agent: why it has no answer, although other agents may have one.
        self.no_answer: dict[str, dict[str, str]] = {}
        self.settled: set[str] = set(self.batch.done)
        self._written: dict[str, dict[str, int]] = {}  # by agent and question: tokens of texts that are being written
        self._index = topology_index
        self._settings = settings
        self._transfer_modes = transfer_modes or {}
        self._given = given
        self._translated = translated or {}
        self._agents_returning_memory = frozenset(topology_index.read_by_answering if keeps_memory else ())
        self._submitted: set[str] = set()
        self._resubmitted: set[str] = set()  # agents whose turns were reset
        self._lacked_memory: set[str] = set()  # agents whose turn is submitted again only after the ends of its sources
        requests = {agent.name: self._build_turn(agent, {}) for agent in topology_index.agents}
        self.bounds = {
            name: segment_bounds(request, len(self._text_sources(name)) * settings.sampling.max_new_tokens)
            for name, request in requests.items()
            if request.thinks == "latent"
        }
        self._requests = {name: request for name, request in requests.items() if not self._text_sources(name)}

    @property
    def admitted_at(self) -> float | None:
        """When the first attempt was admitted, in seconds of the scheduler's clock; None before that."""
        return self.retry.admitted_at

    def admit(self, now: float) -> None:
        """Note the time of admission, unless an earlier attempt with these questions has noted it."""
        if self.retry.admitted_at is None:
            self.retry = replace(self.retry, admitted_at=now)

    @property
    def is_complete(self) -> bool:
        """Whether the turns of all agents have results."""
        return len(self.results) == len(self._index.agents)

    @property
    def open_questions(self) -> tuple[Question, ...]:
        """The questions that are not settled."""
        return tuple(question for question in self.batch.questions if question.id not in self.settled)

    @property
    def open_attempt(self) -> RetryState:
        """The attempt with the questions that are not settled; those that are count as done."""
        done = self.batch.done | self.settled
        return replace(self.retry, batch=replace(self.batch, done=done))

    @property
    def num_unanswered(self) -> int:
        """How many questions agents still work on."""
        early = sum(self.is_answered(name) for name in self.early)
        return len(self.batch.questions) - len(self.settled) - early

    @property
    def unfinished(self) -> list[TurnHandle]:
        """The handles of submitted turns without a result."""
        return [handle for name, handle in self.handles.items() if name not in self.results]

    @property
    def awaits_only_answers(self) -> bool:
        """Whether all agents but the answering ones have results."""
        return all(agent.name in self.results or agent.name in self._index.answering for agent in self._index.agents)

    def is_answered(self, question_id: str) -> bool:
        """Whether every answering agent has finished a question, which need not be settled yet."""
        early = self.early.get(question_id, {})
        return all(name in early or name in self.results for name in self._index.answering)

    def _needs_no_text(self, question_id: str, agent: str) -> bool:
        """Whether an agent need not write for a question, as its text is there, or is not needed."""
        if question_id in self.settled:
            return True
        if agent in self._index.answering:
            return agent in self.early.get(question_id, {})
        return question_id in self.early and self.is_answered(question_id)

    def note_tokens(self, agent: str, question_id: str, num_tokens: int) -> None:
        """Note how many tokens of a text are written; the agent's turn is not over."""
        self._written.setdefault(agent, {})[question_id] = num_tokens

    @property
    def is_writing(self) -> bool:
        """Whether texts are being written, as far as they are noted."""
        return bool(self._written)

    @property
    def num_written(self) -> int:
        """Tokens of the texts of turns that are not over."""
        return sum(sum(tokens.values()) for tokens in self._written.values())

    @property
    def num_writing(self) -> int:
        """How many questions have a text that is being written."""
        over = self.settled | {name for name in self.early if self.is_answered(name)}
        return len({name for tokens in self._written.values() for name in tokens} - over)

    def next_request(self) -> TurnRequest | None:
        """Return the next ready turn in topological order, or None."""
        for agent in self._index.agents:
            if agent.name in self._submitted or not self._is_ready(agent.name):
                continue
            if (request := self._requests.pop(agent.name, None)) is None:
                texts = {name: self.results[name].texts for name in self._index.texts[agent.name]}
                request = self._build_turn(agent, texts)
            if agent.thinks == "text":
                known = self.settled | self.early.keys()
                skipped = frozenset(name for name in known if self._needs_no_text(name, agent.name))
                return replace(request, skipped=skipped) if skipped else request
            return request
        return None

    def new_bounds(self, request: TurnRequest) -> tuple[SegmentBound, ...] | None:
        """Return the bounds of the segment of a request that is submitted, if they are to be reserved: its prompts have
        texts now that they lacked at the admission of the batch, or it is submitted again. Else None."""
        if request.agent not in self.bounds:  # it writes no segment
            return None
        if self._text_sources(request.agent):
            return segment_bounds(request)
        if request.agent in self._resubmitted:
            return self.bounds[request.agent]
        return None

    def segments_for(self, request: TurnRequest) -> dict[str, Any]:
        """Return the (future) segments that `request` reads, in the order of `request.segment_order()`."""
        return {name: self.handles[name].segment for name in self._index.sources[request.agent]}

    def add_handle(self, handle: TurnHandle) -> None:
        """Store the handle of a submitted turn."""
        self.handles[handle.agent] = handle
        self._submitted.add(handle.agent)

    def add_result(self, result: TurnResult) -> None:
        """Store the result of a turn."""
        self.results[result.agent] = result
        self._written.pop(result.agent, None)

    def take_segments_to_free(self) -> list[TurnHandle]:
        """Return the handles of `find_segments_to_free`, and drop them here. The scheduler asks after every result and
        has the runtime free the bytes (`Runtime.free_segments`)."""
        names = find_segments_to_free(self.handles, self.results.keys(), self._index.readers)
        self.lost_segments.difference_update(names)
        return [self.handles.pop(name) for name in names]

    def count_losses(self, together: Iterable[TurnFailure]) -> int:
        """Count the suspects among turns that were lost together. Returns the largest count so far of one agent, of
        deaths of its actor or of missing memory."""
        self._losses.update({(one.agent, one.lacks_memory) for one in together if one.is_suspect})
        return max(self._losses.values(), default=0)

    def mark_lost(self, handles: Set[TurnHandle]) -> None:
        """Note which of these handles' segments are lost: those of turns of this batch that have results."""
        self.lost_segments |= {name for name, one in self.handles.items() if one in handles and name in self.results}

    def lacked_sources(self, reader: str) -> set[str]:
        """Return the agents whose segments a reader may have lacked: all that it reads.

        While one of them has no result, memory that does not come is that agent's, whose actor may be dead before
        anything else tells of it: none are returned, and the reader's turn waits for the results of all of them.
        """
        sources = set(self._index.sources[reader])
        if sources <= self.results.keys():
            return sources
        self._lacked_memory.add(reader)
        return set()

    def depth(self, agent: str) -> int:
        """Return the position of an agent in topological order: a turn that fails can make later turns fail."""
        return next(depth for depth, one in enumerate(self._index.agents) if one.name == agent)

    def rewind(self, lost: Iterable[str]) -> tuple[list[TurnHandle], list[TurnHandle]]:
        """Reset the turns of the agents `lost`, and all turns that this requires: unfinished turns that read them, and
        turns whose segments they read and that no longer exist.

        Returns the dropped handles: first of turns without a result, then of turns with one.
        """
        rerun = set(lost)
        while more := {name for name in self._submitted - rerun if self._must_rerun(name, rerun)}:
            rerun |= more
        pending = [self.handles[name] for name in self.handles if name in rerun and name not in self.results]
        finished = [self.handles[name] for name in self.handles if name in rerun and name in self.results]
        for name in rerun:
            self.handles.pop(name, None)
            self.results.pop(name, None)
            self._written.pop(name, None)
            self._submitted.discard(name)
        self.lost_segments -= rerun
        self._resubmitted |= rerun
        for agent in self._index.agents:
            if agent.name in rerun and not self._text_sources(agent.name):
                self._requests[agent.name] = self._build_turn(agent, {})
        return pending, finished

    def _must_rerun(self, name: str, rerun: Set[str]) -> bool:
        reads_rerun = name not in self.results and not rerun.isdisjoint(self._index.sources[name])
        segment_is_needed = name not in self.handles and not rerun.isdisjoint(self._index.readers[name])
        return reads_rerun or segment_is_needed

    def cancel(self) -> tuple[list[TurnHandle], list[TurnHandle]]:
        """Drop all handles. Returns first those of turns without a result, then those of turns with one."""
        pending = self.unfinished
        finished = [handle for name, handle in self.handles.items() if name in self.results]
        self.handles.clear()
        self.lost_segments.clear()
        self._written.clear()
        return pending, finished

    def _build_turn(self, agent: Agent, texts: Mapping[str, Sequence[str]]) -> TurnRequest:
        sources = self._index.sources[agent.name]
        fallbacks = {name: self.results[name].fallbacks for name in sources if name in self.results}
        return build_turn(
            self._index.topology,
            agent,
            self.batch,
            self._settings,
            texts,
            self._transfer_modes,
            fallbacks,
            given=self._given,
            read_by=tuple(sorted(self._index.readers[agent.name])),
            keeps_memory=agent.name in self._agents_returning_memory,
            translated=self._translated.get(agent.name),
        )

    def _text_sources(self, agent: str) -> tuple[str, ...]:
        """Return the agents whose texts are, or can come to be, in an agent's prompt."""
        falls_back = self._settings.guard == "text"
        return self._index.texts[agent] + (self._index.sources[agent] if falls_back else ())

    def _is_ready(self, agent: str) -> bool:
        sources = self._index.sources[agent]
        awaited = (*self._text_sources(agent), *(sources if agent in self._lacked_memory else ()))
        return self._submitted.issuperset(sources) and all(name in self.results for name in awaited)


def find_segments_to_free(stored: Iterable[str], done: Set[str], readers: Mapping[str, Set[str]]) -> list[str]:
    """Return the agents of one batch whose segments no turn will read any more.

    `stored` are the agents whose segments exist or will exist, `done` those whose turns have results, `readers` the
    agents that read each agent's segment.
    """
    return [agent for agent in stored if agent in done and readers[agent] <= done]
