"""A text agent's turn while its questions are written: what was read, what each question has so far, its result."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace

from latentmas_ray.engine.decoding.stops import StopCheck
from latentmas_ray.engine.run_on import RunOnCheck
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import (
    CutOff,
    NewTokens,
    Phases,
    PhaseSpan,
    SampleText,
    SegmentRead,
    TurnRequest,
    TurnResult,
)
from latentmas_ray.seeds import sample_seed
from latentmas_ray.writing.receive import ReceivedMemory
from latentmas_ray.writing.text_engine import TextRequest

CANCELLED = "it was cancelled"


@dataclass(frozen=True, kw_only=True, eq=False)
class ReceivedTurn:
    """A turn whose memory has arrived. Values per question are in the order of `work.question_ids`."""

    work: TurnRequest
    prompts: Sequence[Sequence[int]]  # token ids
    memory: ReceivedMemory
    encode_seconds: float = 0.0  # from texts to tokens
    absorb_seconds: float = 0.0  # to unpack the memory, or to compute it again
    wait_seconds: float = 0.0  # for memory that had not arrived when the turn began
    spans: tuple[PhaseSpan, ...] = ()  # of these
    reads: tuple[SegmentRead, ...] = ()

    def request(self, number: int, index: int, sample: int) -> TextRequest:
        """What an engine gets of one text of the question at `index`, in the turn `number`."""
        sampling = self.work.sampling
        return TextRequest(
            key=key_of(number, self.work, index, sample),
            question_id=self.work.question_ids[index],
            agent=self.work.agent,
            prompt_ids=tuple(self.prompts[index]),
            sampling=replace(sampling, seed=sample_seed(sampling.seed, sample)) if sample else sampling,
            memory=self.memory.memories[index],
            inputs=self.memory.inputs[index],
            group=key_of(number, self.work, index, 0) if self.work.samples > 1 else "",
        )

    def without_memory(self) -> "ReceivedTurn":
        """Return the same turn without KV and recompute inputs."""
        nothing = (None,) * len(self.prompts)
        return replace(self, memory=replace(self.memory, memories=nothing, inputs=nothing, held=None))


def receiving_spans(begin: float, encode_seconds: float, absorb_seconds: float) -> tuple[PhaseSpan, ...]:
    """Return the spans of a turn that is received from `begin` on, in wall-clock seconds."""
    encoded = begin + encode_seconds
    prefill = PhaseSpan(phase="prefill", begin=begin, end=encoded)
    return prefill, PhaseSpan(phase="absorb", begin=encoded, end=encoded + absorb_seconds)


def key_of(number: int, work: TurnRequest, index: int, sample: int) -> str:
    """Return the key of one text of the turn `number`; the same on all ranks of a replica."""
    return f"{number} {index} {work.question_ids[index]}" + (f" {sample}" if sample else "")


def texts_of(work: TurnRequest) -> list[tuple[int, int]]:
    """Return the question's index and the number of the sample of each text of a turn, in order."""
    return [(index, sample) for index in range(len(work.question_ids)) for sample in range(work.samples)]


def requests_of(
    number: int, work: TurnRequest, outcome: ReceivedTurn | Exception
) -> dict[str, TextRequest | Exception]:
    """Return what an engine gets of each text, by key; the error for each, if the turn was not received."""
    return {
        key_of(number, work, index, sample): outcome
        if isinstance(outcome, Exception)
        else outcome.request(number, index, sample)
        for index, sample in texts_of(work)
    }


@dataclass(eq=False, kw_only=True)
class WrittenQuestion:
    """One text of a question: what was written so far, and its share of the engine's steps."""

    turn: "WrittenTurn"
    index: int  # of the question in the turn
    sample: int
    key: str
    tokens: list[int] = field(default_factory=list)
    cut_off: CutOff = "no"
    error: str | None = None  # why it could not be written
    has_ended: bool = False
    num_reported: int = 0  # of its tokens, if they are wanted as they are written
    has_read: bool = False  # the engine has its own copy of the memory
    started_at: float | None = None  # when its first step began, in monotonic seconds
    step_seconds: float = 0.0  # of the steps since then
    has_token: bool = False
    # Wall-clock seconds: its first step, its first token, its end.
    began: float | None = None
    wrote_first: float | None = None
    ended: float | None = None
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def id(self) -> str:
        return self.turn.received.work.question_ids[self.index]

    @property
    def order(self) -> tuple[float, int, int, int]:
        """What decides which text starts first: the oldest turn, then the order in the turn."""
        return self.turn.received.work.submitted_at, self.turn.number, self.index, self.sample

    def add_share(self, seconds: float) -> None:
        """Add its share of a step."""
        if self.has_token:
            self.decode_seconds += seconds
        else:
            self.prefill_seconds += seconds

    def take_new(self) -> NewTokens | None:
        """Return the tokens that were not reported yet, if they are wanted now. Those of a model without a chat
        template may be cut off again until its text has ended."""
        turn, first = self.turn, self.num_reported
        if self.id not in turn.received.work.streamed or turn.run_on.is_on or first == len(self.tokens):
            return None
        self.num_reported = len(self.tokens)
        return NewTokens(token_ids=tuple(self.tokens[first:]), first=first, sample=self.sample)

    @property
    def last_position(self) -> int:
        """The position of the last token that the engine has read: the one that was sampled last is not read yet."""
        received = self.turn.received
        start = received.memory.starts[self.index]
        return start + len(received.prompts[self.index]) + len(self.tokens) - 1

    @property
    def spans(self) -> tuple[PhaseSpan, ...]:
        """Prefill until its first token, then decode; nothing if it never started or has not ended."""
        if self.began is None or self.ended is None:
            return ()
        first = self.ended if self.wrote_first is None else self.wrote_first
        prefill = PhaseSpan(phase="prefill", begin=self.began, end=first)
        return (prefill, PhaseSpan(phase="decode", begin=first, end=self.ended)) if self.wrote_first else (prefill,)

    def count_step(self, begin: float, end: float) -> None:
        """Count a step that it took part in, in monotonic seconds."""
        if self.started_at is None:
            self.started_at, self.began = begin, time.time() - (end - begin)
        self.step_seconds += end - begin

    def seconds(self, now: float) -> float:
        """How long it has been running at the time `now`."""
        return 0.0 if self.started_at is None else now - self.started_at

    def request(self) -> TextRequest:
        """What the engine gets."""
        return self.turn.received.request(self.turn.number, self.index, self.sample)


class WrittenTurn:
    """A turn in progress. `future` gets its result when its last question has ended."""

    def __init__(
        self,
        number: int,
        received: ReceivedTurn,
        run_on: RunOnCheck,
        stops: StopCheck,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        """`number` is unique among the turns of a writer. `decode` makes a text of token ids."""
        self.number = number
        self.received = received
        self.run_on, self.stops = run_on, stops
        self.future: Future[TurnResult] = Future()
        work = received.work
        self.questions = [  # one for each text, those of a question next to one another
            WrittenQuestion(
                turn=self,
                index=index,
                sample=sample,
                key=key_of(number, work, index, sample),
                has_ended=work.question_ids[index] in work.skipped,
            )
            for index, sample in texts_of(work)
        ]
        self._decode = decode
        self._texts: dict[str, str] = {}

    @property
    def most_texts(self) -> int | None:
        """How many texts may be written at the same time while one of these starts."""
        work = self.received.work
        return None if work.decode_batch is None else work.decode_batch * work.samples

    def texts_of(self, index: int) -> list[WrittenQuestion]:
        """The texts of one question."""
        samples = self.received.work.samples
        return self.questions[index * samples : (index + 1) * samples]

    def was_cancelled(self, index: int) -> bool:
        """Whether a question that has ended was cancelled."""
        return _failure(self.texts_of(index)) == CANCELLED

    def num_tokens(self, index: int) -> int:
        """The tokens of all texts of one question so far."""
        return sum(len(text.tokens) for text in self.texts_of(index))

    @property
    def has_ended(self) -> bool:
        """Whether all of its questions have ended."""
        return all(question.has_ended for question in self.questions)

    def drop_memory(self) -> None:
        """Drop the memory if no question reads it any more. Turn and questions refer to one another, so it would live
        until the garbage collector runs."""
        if all(question.has_ended or question.has_read for question in self.questions):
            self.received = self.received.without_memory()

    def progress(self, now: float) -> TurnProgress | None:
        """How far it is at the time `now`; None before its first question starts. Any thread may ask."""
        started = [question for question in self.questions if question.started_at is not None]
        if not started:
            return None
        open_ones = [question for question in started if not question.has_ended] or started
        counts = [len(question.tokens) for question in open_ones]
        prompts = [len(self.received.prompts[question.index]) for question in open_ones]
        return TurnProgress(
            agent=self.received.work.agent,
            question_ids=self.received.work.question_ids,
            step="token" if any(counts) else "prompt",
            num_done=max(counts),
            num_total=self.received.work.sampling.max_new_tokens if any(counts) else sum(prompts),
            seconds=max(question.seconds(now) for question in started),
        )

    def result(self, indexes: Sequence[int] | None = None) -> TurnResult:
        """Return the result of these questions, which have ended (default: all)."""
        received = self.received
        chosen = list(range(len(received.prompts))) if indexes is None else list(indexes)
        texts = [self.texts_of(index) for index in chosen]
        firsts = [own[0] for own in texts]
        phases = tuple(self._phases(own) for own in texts)
        return TurnResult(
            agent=received.work.agent,
            prompt_tokens=tuple(len(received.prompts[index]) for index in chosen),
            output_token_ids=tuple(tuple(first.tokens) for first in firsts),
            texts=tuple(self._text(first) for first in firsts),
            cut_off=tuple(first.cut_off for first in firsts),
            samples=tuple(map(self._samples, texts)) if received.work.samples > 1 else (),
            phases=sum_phases(phases),
            question_phases=phases,
            spans=received.spans,
            question_spans=tuple(map(join_spans, texts)),
            failed={own[0].id: why for own in texts if (why := _failure(own)) is not None},
            memory_tokens=tuple(
                sum(
                    received.memory.lengths[text.index] + len(received.prompts[text.index]) + len(text.tokens)
                    for text in own
                )
                for own in texts
            ),
            reads=received.reads,
        )

    def _samples(self, texts: Sequence[WrittenQuestion]) -> tuple[SampleText, ...]:
        return tuple(
            SampleText(token_ids=tuple(text.tokens), text=self._text(text), cut_off=text.cut_off) for text in texts
        )

    def _text(self, question: WrittenQuestion) -> str:
        if question.key not in self._texts:
            self._texts[question.key] = self._decode(question.tokens) if question.tokens else ""
        return self._texts[question.key]

    def _phases(self, texts: Sequence[WrittenQuestion]) -> Phases:
        """Its share of the steps, and an equal part of what was done for the whole turn."""
        count = len(self.received.prompts)
        return Phases(
            wait=self.received.wait_seconds / count,
            absorb=self.received.absorb_seconds / count,
            prefill=self.received.encode_seconds / count + sum(text.prefill_seconds for text in texts),
            decode=sum(text.decode_seconds for text in texts),
        )


def join_spans(texts: Sequence[WrittenQuestion]) -> tuple[PhaseSpan, ...]:
    """Return the spans of a question whose texts these are: prefill until the first token of any, then decode."""
    spans = [span for text in texts for span in text.spans]
    if len(texts) == 1 or not spans:
        return tuple(spans)
    first = min((span.begin for span in spans if span.phase == "decode"), default=max(span.end for span in spans))
    begin, end = min(span.begin for span in spans), max(span.end for span in spans)
    prefill = PhaseSpan(phase="prefill", begin=begin, end=first)
    return (prefill, PhaseSpan(phase="decode", begin=first, end=end)) if end > first else (prefill,)


def _failure(texts: Sequence[WrittenQuestion]) -> str | None:
    """Why a question could not be written: the error of the text that ended the others."""
    errors = [text.error for text in texts if text.error is not None]
    return next((error for error in errors if error != CANCELLED), errors[0] if errors else None)


def sum_phases(phases: Sequence[Phases]) -> Phases:
    """Return the sum of the seconds of each phase."""
    return Phases(**{one.name: sum(getattr(phase, one.name) for phase in phases) for one in fields(Phases)})
