"""The run of one lot: its events and results go to the replies of its questions."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress

from latentmas_ray.errors import ContextLengthError, InputError, LatentMASError, QuestionsFailedError, RunError
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import RunEvent, TextWritten, TurnFinished, TurnRepeated
from latentmas_ray.scheduler.run import WithdrawnQuestions
from latentmas_ray.serve.teams.batcher import Lot
from latentmas_ray.serve.teams.choices import choices_of, whole_texts
from latentmas_ray.serve.teams.events import QuestionRecords, Record
from latentmas_ray.serve.teams.progress import ASK_SECONDS, QuestionProgress, RunningTurns
from latentmas_ray.serve.teams.reply import AgentRecord, Reply, TeamAnswer
from latentmas_ray.serve.teams.settings import TeamRequest
from latentmas_ray.serve.teams.streams import ReplyTexts
from latentmas_ray.system.serving import Fleet, TeamVariant


class LotRun:
    """Runs a lot on a fleet. Everything but the observer runs in one event loop."""

    def __init__(
        self,
        fleet: Fleet,
        model: TeamVariant,
        lot: Lot,
        on_turn: Callable[[Lot, TurnFinished], None],
        running_turns: RunningTurns,
    ) -> None:
        """`on_turn` is called for each turn that an agent has finished."""
        self._running_turns = running_turns
        self._fleet, self._model, self._lot, self._on_turn = fleet, model, lot, on_turn
        self._replies = {reply.question.id: reply for reply in lot.replies}
        self._texts: dict[str, ReplyTexts] = {}
        self._records: dict[str, QuestionRecords] = {}
        self._withdrawn = WithdrawnQuestions()
        self._loop = asyncio.get_running_loop()
        self._events: deque[TurnFinished | TextWritten | TurnRepeated] = deque()  # for the loop
        self._is_woken = False  # the loop will handle them
        self._on_over: Callable[[Reply], None] = lambda reply: None

    def withdraw(self, reply: Reply) -> None:
        """End the turns of a question that is not wanted any more."""
        self._withdrawn.add(reply.question.id)

    async def run(self, on_over: Callable[[Reply], None]) -> list[Reply]:
        """Run it to its end; `on_over` is called with each reply that is over before that, but for those that are
        withdrawn from outside. Errors go to the replies.

        Returns those that are to be asked again, each alone: a question whose prompt the model refuses ends the run of
        all, and which one that is, is not known. Empty in all other cases.
        """
        self._on_over = on_over
        first = self._lot.replies[0].request
        streamed = [reply.question.id for reply in self._lot.replies if reply.request.streams or reply.request.trace]
        try:
            call = self._fleet.call(
                self._model,
                first.settings,
                [reply.question for reply in self._lot.replies],
                self,
                streamed=streamed if self._is_told_early(first) else (),
                stop=first.stop,
                withdrawn=self._withdrawn,
                given=first.given,
                requests={one.question.id: one.request.span for one in self._lot.replies if one.request.span},
            )
            self._start_records(call.request.settings.sampling.max_new_tokens)
            async with aclosing(self._fleet.arun(call)) as results, self._watching():
                async for result in results:
                    reply = self._replies[result.id]
                    if isinstance(result, Answer):
                        self._send_answer(reply, result)
                    elif isinstance(result, Failure):
                        reply.fail(_error_of(result))
                    on_over(reply)
            self._fail_all(RunError("the run ended without an answer"))
        except InputError as error:
            if again := self._untouched():
                return again
            self._fail_all(error)
        except asyncio.CancelledError:
            self._fail_all(RunError("the server gave the question up"))
            raise
        except LatentMASError as error:
            self._fail_all(error)
        except Exception as error:
            self._fail_all(error)
            raise
        return []

    def _untouched(self) -> list[Reply]:
        """The replies that are not over, if there are several; those that have text already fail."""
        for name in self._texts:
            self._replies[name].fail(RunError("another question ended the run while this one was being answered"))
        left = [reply for reply in self._lot.replies if not reply.is_over]
        return left if len(self._lot.replies) > 1 else []

    def on_event(self, event: RunEvent) -> None:
        """Pass an event of the run, which comes in the scheduler's thread, to the event loop. That is woken once for
        all that come before it is there: a report has tokens of many texts."""
        if isinstance(event, TurnFinished | TextWritten | TurnRepeated):
            self._events.append(event)
            if not self._is_woken:
                self._is_woken = True
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._handle_all)

    def _handle_all(self) -> None:
        self._is_woken = False  # first: an event that comes now wakes the loop again
        while self._events:
            self._handle(self._events.popleft())

    def _handle(self, event: TurnFinished | TextWritten | TurnRepeated) -> None:
        if isinstance(event, TurnFinished):
            for name, records in self._records.items():
                self._send_records(self._replies[name], records.finish_turn(event))
            self._on_turn(self._lot, event)
            return
        if isinstance(event, TurnRepeated):
            for name, own in self._records.items():
                self._send_records(self._replies[name], own.repeat(event))
            return
        reply = self._replies[event.question_id]
        if reply.is_over:
            return
        if event.question_id in self._records:
            self._send_records(reply, self._records[event.question_id].write(event.agent, event.new))
        if reply.request.streams:
            try:
                for piece in self._texts_of(reply).add(event.new):
                    reply.send(piece)
            except RunError as error:
                reply.fail(error)
                self.withdraw(reply)
                self._on_over(reply)

    def _start_records(self, max_new_tokens: int) -> None:
        for name, reply in self._replies.items():
            if reply.request.trace:
                records = self._records[name] = QuestionRecords(
                    self._model.topology, name, max_new_tokens, lens=reply.request.lens
                )
                self._send_records(reply, records.start())

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        progress = {name: QuestionProgress(name) for name in self._records if self._replies[name].request.streams}
        watch = asyncio.create_task(self._watch(progress)) if progress else None
        try:
            yield
        finally:
            if watch is not None:
                watch.cancel()

    async def _watch(self, progress: Mapping[str, QuestionProgress]) -> None:
        """Send records of how far the agents are, by question, until it is cancelled."""
        while True:
            turns = await self._running_turns.fetch()
            for name, one in progress.items():
                self._send_records(self._replies[name], one.update(turns, self._records[name].finished))
            await asyncio.sleep(ASK_SECONDS)

    def _send_answer(self, reply: Reply, answer: Answer) -> None:
        topology, stop = self._model.topology, reply.request.stop
        num_choices = reply.request.num_choices
        choices = choices_of(answer, topology, stop, num_choices)
        if (records := self._records.get(answer.id)) is not None:
            self._send_records(reply, records.finish(answer))
        if reply.request.streams:
            texts = [text for text, _, _ in whole_texts(answer, topology, num_choices)]
            for piece in self._texts_of(reply).finish(texts):
                reply.send(piece)
        reply.send(TeamAnswer(choices=choices, answer=answer, cached_tokens=reply.request.given_tokens))

    def _is_told_early(self, request: TeamRequest) -> bool:
        """Whether what is written is what the client gets, and not something that its answer is made of."""
        config = self._model.config
        num_samples = config.samples if request.settings.samples is None else request.settings.samples
        return len(self._model.topology.answering_agents) == 1 and num_samples == request.num_choices

    def _texts_of(self, reply: Reply) -> ReplyTexts:
        name = reply.question.id
        if name not in self._texts:
            agent = self._model.topology.answering_agents[0].name
            self._texts[name] = ReplyTexts(reply.request.stop, self._model.setup.chat_of(agent).decode)
        return self._texts[name]

    def _fail_all(self, error: BaseException) -> None:
        for reply in self._lot.replies:
            reply.fail(error)

    @staticmethod
    def _send_records(reply: Reply, records: Iterator[Record]) -> None:
        for record in records:
            reply.send(AgentRecord(record=record))


def _error_of(failure: Failure) -> LatentMASError:
    return ContextLengthError(failure.error) if failure.too_long else QuestionsFailedError((failure,), 1)
