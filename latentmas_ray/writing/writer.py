"""Writes the questions of several turns at the same time, on any `TextEngine`.

A turn is received in the thread of its caller, which waits for its memory there. One thread, the engine's, starts
questions and steps the engine; each step is queued anew, so that other work of that thread runs in between.
"""

import heapq
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from latentmas_ray.engine.decoding.stops import StopCheck
from latentmas_ray.engine.positions import check_positions
from latentmas_ray.engine.run_on import RunOnCheck, asked
from latentmas_ray.engine.segment_io import Incoming
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.errors import ActorError, CacheError, LatentMASError, SegmentError, first_line
from latentmas_ray.memory import Segment, merge_layout
from latentmas_ray.units import format_seconds
from latentmas_ray.writing.busy_time import BusyTime
from latentmas_ray.writing.events import TextEnded, TextGrown, WriterEvent, ignore
from latentmas_ray.writing.receive import ArrivedChunks, receive_memory
from latentmas_ray.writing.text_engine import TextEngine, TextOutput
from latentmas_ray.writing.written_turn import CANCELLED, ReceivedTurn, WrittenQuestion, WrittenTurn, receiving_spans

_MAX_CANCELLED = 1000


# Computes again what the agents `TurnRequest.recomputed` handed over; called in the engine's thread.
Recompute = Callable[[TurnRequest, Incoming], Mapping[str, Segment]]
# Makes inputs of the engine's model of what the agents `TurnRequest.translated` handed over; called in its thread.
Translate = Callable[[TurnRequest, Incoming], Incoming]
_T = TypeVar("_T")


class Writer:
    """Writes texts. All methods but `step` may be called from any thread."""

    def __init__(
        self,
        engine: TextEngine,
        execute: Callable[[Callable[[], None]], Any],
        *,
        recompute: Recompute | None = None,
        translate: Translate | None = None,
        question_seconds: float | None = None,
        on_event: Callable[[WriterEvent], None] = ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`execute` queues a call for the engine's thread and returns at once.

        recompute: without it, `engine` gets the inputs of a chain as they are.
        translate: without it, memory of other models cannot be read.
        question_seconds: a question fails alone if its steps take longer, from the first that reads its prompt.
            Other work of the engine's thread does not count, nor steps in which it waits for room and others run.
        on_event: is called in the engine's thread for every token, and for every question that ends before its turn.
        """
        self.engine = engine
        self.busy = BusyTime()
        self.num_steps = 0  # of the engine so far
        self._execute, self._recompute, self._translate = execute, recompute, translate
        self._question_seconds, self._on_event, self._clock = question_seconds, on_event, clock
        self._lock = threading.Lock()  # of all that follows
        self._waiting: list[tuple[tuple[float, int, int, int], WrittenQuestion]] = []  # a heap
        self._turns: dict[int, WrittenTurn] = {}
        self._cancelled: dict[int, set[str] | None] = {}  # by turn that has not started: its questions, None: all
        self._to_abort: list[WrittenQuestion] = []  # that were cancelled
        self._is_stepping = False  # a step is queued
        self._dead: ActorError | None = None
        self._running: dict[str, WrittenQuestion] = {}  # only the engine's thread changes it

    def receive(self, work: TurnRequest, memory: Incoming) -> ReceivedTurn:
        """Wait for the memory of a turn and return what `start` needs.

        Raises QuestionsTooLongError for questions that do not fit the engine's positions, SegmentError, ModelError for
        prompts that the chat template refuses, and the errors of `memory`.
        """
        engine, begin_at, begin = self.engine, time.time(), time.perf_counter()
        prompts = [engine.chat.encode(prompt.messages, prompt.template, prompt.suffix) for prompt in work.prompts]
        encoded = time.perf_counter()
        if work.translated:  # lengths and positions are those of the translated inputs
            memory = self._call_translate(work, ArrivedChunks(memory))
        check_positions(
            work,
            starts=merge_layout(work.reads, memory.segments(), len(prompts)).next_positions,
            prompt_lengths=list(map(len, prompts)),
            num_closing=0,
            limit=engine.max_positions,
            model=engine.model_name,
            bound=engine.positions_bound,
        )
        arrived = receive_memory(engine.spec, work, memory, self._call_recompute if self._recompute else None)
        encode_seconds, absorb_seconds = encoded - begin, time.perf_counter() - encoded
        return ReceivedTurn(
            work=work,
            prompts=prompts,
            memory=arrived,
            encode_seconds=encode_seconds,
            absorb_seconds=absorb_seconds,
            spans=receiving_spans(begin_at, encode_seconds, absorb_seconds),
        )

    def start(self, number: int, received: ReceivedTurn) -> "Future[TurnResult]":
        """Queue the questions of a turn, oldest turn first; return the future of its result.

        `number` is unique among the turns of this writer. A question that cannot be written is in `TurnResult.failed`;
        the future raises ActorError if the engine cannot continue.
        """
        work = received.work
        chat = self.engine.chat
        run_on, stops = RunOnCheck(chat, asked(work.prompts)), StopCheck(chat, work.stop)
        turn = WrittenTurn(number, received, run_on, stops, chat.decode)
        if turn.has_ended:  # all of its questions are skipped
            turn.future.set_result(turn.result())
            return turn.future
        with self._lock:
            if self._dead is not None:
                raise self._dead
            self._turns[number] = turn
            for question in turn.questions:
                if not question.has_ended:
                    heapq.heappush(self._waiting, (question.order, question))
            if number in self._cancelled:
                self._cancel_in(turn, self._cancelled.pop(number))
            self._queue_step()
        return turn.future

    def cancel(self, number: int, question_ids: Collection[str] | None = None) -> None:
        """Drop questions of a turn (default: all), which may not have started yet: they are in `TurnResult.failed`."""
        with self._lock:
            if (turn := self._turns.get(number)) is not None:
                self._cancel_in(turn, question_ids)
                self._queue_step()
            elif question_ids is None or self._cancelled.get(number, ()) is None:
                self._cancelled[number] = None
            else:
                self._cancelled.setdefault(number, set()).update(question_ids)  # type: ignore[union-attr]
            while len(self._cancelled) > _MAX_CANCELLED:  # of turns that never came
                del self._cancelled[next(iter(self._cancelled))]

    def cancel_all(self) -> None:
        """Drop all questions of all turns that have come."""
        with self._lock:
            numbers = list(self._turns)
        for number in numbers:
            self.cancel(number)

    @property
    def is_dead(self) -> bool:
        """Whether the engine has ended, and with it all turns."""
        return self._dead is not None

    @property
    def progress(self) -> list[TurnProgress]:
        """How far the turns are that are being written."""
        with self._lock:
            turns = list(self._turns.values())
        now = self._clock()
        return [progress for turn in turns if (progress := turn.progress(now)) is not None]

    def step(self) -> bool:
        """Start questions for which there is room and step the engine once; return whether any are left.

        Only the engine's thread calls it. An error of the engine ends all turns with ActorError.
        """
        try:
            self._end_unwanted()
            begin = time.time()
            self._start_waiting()
            if self._running:
                self._step_engine(begin)
        except Exception as error:  # noqa: BLE001  whatever it is, the engine's state is unknown now
            self._die(error)
        with self._lock:
            return bool(self._running or self._waiting or self._to_abort)

    def record_work(self, begin: float) -> None:
        """Count other work of the engine's thread since `begin`, in seconds of the wall clock: a whole turn, or memory
        that was computed again. It is a step like any other: an engine that does it does not hang."""
        self.busy.record(begin, time.time())
        self.num_steps += 1

    def close(self) -> None:
        """Free the engine; turns in progress raise ActorError. Only the engine's thread calls it."""
        self._die(ActorError("the engine was closed"))
        self.engine.close()

    def _queue_step(self) -> None:
        """Queue a step unless one is queued. The lock is held."""
        if not self._is_stepping:
            self._is_stepping = True
            self._execute(self._step_and_queue)

    def _step_and_queue(self) -> None:
        self.step()
        with self._lock:
            self._is_stepping = False
            if self._running or self._waiting or self._to_abort:
                self._queue_step()

    def _end_unwanted(self) -> None:
        """End the questions that were cancelled or take too long."""
        with self._lock:
            cancelled, self._to_abort = self._to_abort, []
            gone = {question.key for question in cancelled}
            if gone:
                self._waiting = [one for one in self._waiting if one[1].key not in gone]
                heapq.heapify(self._waiting)
        # A question may have ended by itself in the step during which it was cancelled.
        ended = [(question, CANCELLED) for question in cancelled if not question.has_ended]
        if (limit := self._question_seconds) is not None:
            why = f"it took longer than {format_seconds(limit)} (turn_timeout)"
            late = [question for question in self._running.values() if question.step_seconds > limit]
            ended += [(question, why) for question in late if question.key not in gone]
        if ended:
            self.engine.abort([question.key for question, _ in ended if question.key in self._running])
        for question, why in ended:
            question.error = why
            self._end(question)

    def _start_waiting(self) -> None:
        """Start the oldest questions, as many as there is room for."""
        while True:
            with self._lock:
                if not self._waiting:
                    return
                order, question = heapq.heappop(self._waiting)
                if len(self._running) >= min(self.engine.max_running, question.turn.most_texts or sys.maxsize):
                    heapq.heappush(self._waiting, (order, question))
                    return
            request = question.request()
            if self._running and not self.engine.can_start(request):
                with self._lock:
                    heapq.heappush(self._waiting, (order, question))
                return
            try:
                self.engine.start(request)
            except ActorError:
                raise
            except LatentMASError as error:
                traceback.clear_frames(error.__traceback__)  # they refer to the memory
                if isinstance(error, CacheError) and self._running:  # there will be room when one of them has ended
                    with self._lock:
                        heapq.heappush(self._waiting, (order, question))
                    return
                question.error = first_line(error)
                self._end(question)
            else:
                self._running[question.key] = question
                question.has_read = self.engine.copies_memory
                question.turn.drop_memory()
            del request  # it refers to the memory

    def _step_engine(self, begin: float) -> None:
        ran, started_at = list(self._running.values()), self._clock()
        outputs = self.engine.step()
        self.num_steps += 1
        end = time.time()
        self.busy.record(begin, end)
        for question in ran:
            question.add_share(max(0.0, end - begin) / len(ran))
        queued = set(self.engine.queued)
        for question in [one for one in ran if one.key not in queued] or ran:
            question.count_step(started_at, self._clock())
        for output in outputs:
            if output.key in self._running:
                self._take(self._running[output.key], output)

    def _take(self, question: WrittenQuestion, output: TextOutput) -> None:
        """Add what a step has written for a question."""
        ends = output.end
        for token in output.token_ids:
            question.tokens.append(token)
            kept = question.turn.run_on.num_kept(question.index, question.tokens)
            if kept is not None or question.turn.stops.has_ended(question.tokens):
                del question.tokens[len(question.tokens) if kept is None else kept :]
                if ends is None:
                    self.engine.abort([question.key])
                ends = "stop"
                break
        if output.token_ids and not question.has_token:
            question.has_token, question.wrote_first = True, time.time()
        if ends is None:
            turn = question.turn
            num_tokens = turn.num_tokens(question.index)
            new = question.take_new()
            self._on_event(TextGrown(number=turn.number, question_id=question.id, num_tokens=num_tokens, new=new))
            return
        if ends == "error":
            question.error = " ".join(output.error.split()) or "the engine could not continue it"
        elif ends == "length":
            limit = self.engine.max_positions
            is_last_position = limit is not None and question.last_position >= limit
            question.cut_off = "positions" if is_last_position else "max_new_tokens"
        self._end(question)

    def _end(self, question: WrittenQuestion) -> None:
        """Report a question whose last text has ended, and its turn if it was the last. An error of one text ends the
        others of its question."""
        turn = question.turn
        self._running.pop(question.key, None)
        question.has_ended, question.ended = True, time.time()
        turn.drop_memory()
        left = [text for text in turn.texts_of(question.index) if not text.has_ended]
        if left and question.error not in (None, CANCELLED):
            with self._lock:
                self._to_abort += [text for text in left if text not in self._to_abort]
        if turn.has_ended:
            result = turn.result()  # if that fails, the turn must still be known
            with self._lock:
                self._turns.pop(turn.number, None)
            turn.future.set_result(result)
        elif not left and turn.received.work.is_last and not turn.was_cancelled(question.index):
            self._on_event(TextEnded(number=turn.number, question_id=question.id, result=turn.result([question.index])))

    def _cancel_in(self, turn: WrittenTurn, question_ids: Collection[str] | None) -> None:
        """Have questions of a turn ended before the next step. The lock is held."""
        queued = {question.key for question in self._to_abort}
        self._to_abort += [
            question
            for question in turn.questions
            if (question_ids is None or question.id in question_ids)
            and not question.has_ended
            and question.key not in queued
        ]

    def _die(self, error: Exception) -> None:
        """End all turns: the engine cannot continue."""
        if isinstance(error, ActorError):
            dead = error
        else:
            dead = ActorError(f"the engine that writes texts failed: {first_line(error)}")
            dead.__cause__ = error
            traceback.clear_frames(error.__traceback__)
        with self._lock:
            self._dead = self._dead or dead
            turns, self._turns, self._waiting, self._to_abort = list(self._turns.values()), {}, [], []
        self._running.clear()
        for turn in turns:
            if not turn.future.done():
                turn.future.set_exception(self._dead)

    def _call_translate(self, work: TurnRequest, memory: Incoming) -> Incoming:
        """Translate memory that has arrived."""
        translate = self._translate
        if translate is None:
            names = ", ".join(work.translated)
            raise SegmentError(f"this engine reads memory of its own model alone, and that of {names} is of another")
        return self._call(lambda: translate(work, memory))

    def _call_recompute(self, work: TurnRequest, memory: Incoming) -> Mapping[str, Segment]:
        """Compute memory; its bytes are copied out of the engine's cache in the engine's thread."""

        def compute() -> Mapping[str, Segment]:
            assert self._recompute is not None
            segments = self._recompute(work, memory)
            for segment in segments.values():
                segment.kv.buffer()
            return segments

        return self._call(compute)

    def _call(self, compute: Callable[[], _T]) -> _T:
        """Return what `compute` returns in the engine's thread. Raises like it."""
        done: Future[_T] = Future()

        def work() -> None:
            begin = time.time()
            try:
                done.set_result(compute())
            except BaseException as error:  # noqa: BLE001  raised where the result is awaited
                done.set_exception(error)
            self.record_work(begin)

        self._execute(work)
        return done.result()
