"""The writer on an engine that writes what the prompts say: no model, no threads but where they are the point."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import ref

import pytest

from latentmas_ray.engine.segment_io import InMemorySegments
from latentmas_ray.engine.turn import Prompt, Sampling, TurnRequest
from latentmas_ray.errors import ActorError, QuestionsTooLongError
from latentmas_ray.writing.writer import TextEnded, TextGrown, Writer, WriterEvent
from latentmas_ray.writing.written_turn import CANCELLED, WrittenTurn
from tests.cases.scripted_engine import ByteChat, ScriptedEngine, text_of


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A writer whose steps the test makes."""

    def __init__(self, **engine: Any) -> None:
        self.engine = ScriptedEngine(**engine)
        self.events: list[WriterEvent] = []
        self.clock = Clock()
        self.queued: list[Callable[[], None]] = []
        self.writer = Writer(
            self.engine,
            self.queued.append,
            question_seconds=10.0,
            on_event=self.events.append,
            clock=self.clock,
        )
        self.seconds: list[float] = []  # of the next steps of the engine
        self.number = 0
        step = self.engine.step

        def timed_step() -> Any:
            self.clock.now += self.seconds.pop(0) if self.seconds else 0.0
            return step()

        self.engine.step = timed_step  # type: ignore[method-assign]

    def finish_some(self, count: int) -> None:
        """Make as many steps as are left of `count`."""
        for _ in range(count):
            if self.queued:
                self.step()

    def start(self, *prompts: str, is_last: bool = True, **changes: Any) -> Any:
        self.number += 1
        work = request(*prompts, is_last=is_last, **changes)
        return self.writer.start(self.number, self.writer.receive(work, InMemorySegments({})))

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.queued.pop(0)()

    def finish(self) -> None:
        while self.queued:
            self.step()


def request(*prompts: str, **changes: Any) -> TurnRequest:
    fields = {"sampling": Sampling(max_new_tokens=20), **changes}
    return TurnRequest(
        agent="judger",
        batch=0,
        question_ids=tuple(f"q{index}" for index in range(len(prompts))),
        prompts=tuple(Prompt(messages=({"role": "user", "content": text},)) for text in prompts),
        thinks="text",
        **fields,
    )


def ended(bench: Bench) -> list[tuple[int, str]]:
    return [(event.number, event.question_id) for event in bench.events if isinstance(event, TextEnded)]


def test_questions_of_several_turns_share_the_steps_and_leave_when_they_have_ended() -> None:
    bench = Bench(max_running=3)
    first, second = bench.start("write 6", "write 1"), bench.start("write 2", "write 3")
    bench.finish()
    assert first.result().texts == (text_of("write 6", 6), text_of("write 1", 1))
    assert second.result().texts == (text_of("write 2", 2), text_of("write 3", 3))
    # The fourth question takes the place of the second, which ends in the second step.
    assert bench.engine.num_running == [3, 3, 3, 2, 2, 2, 1]
    assert ended(bench) == [(1, "q1"), (2, "q0")]  # the last of each turn comes with the turn


def test_a_result_has_what_a_turn_has_and_what_each_question_took() -> None:
    bench = Bench()
    done = bench.start("write 2", "write 30")
    bench.finish()
    result = done.result()
    assert result.cut_off == ("no", "max_new_tokens")
    assert result.output_token_ids[0] == tuple(text_of("write 2", 2).encode())
    assert result.prompt_tokens == (7, 8)
    assert result.memory_tokens == (9, 28)
    assert len(result.question_phases) == 2
    assert result.phases.decode == pytest.approx(sum(one.decode for one in result.question_phases))
    assert result.phases.total > 0
    (one,) = [event.result for event in bench.events if isinstance(event, TextEnded)]
    assert (one.texts, one.prompt_tokens, one.cut_off) == (result.texts[:1], (7,), ("no",))
    assert one.question_phases == result.question_phases[:1]
    assert one.question_spans == result.question_spans[:1]
    short, long = result.question_spans
    assert [span.phase for span in (*short, *long)] == ["prefill", "decode", "prefill", "decode"]
    assert all(spans[0].begin <= spans[0].end == spans[1].begin <= spans[1].end for spans in (short, long))
    assert long[0].begin <= short[1].end <= long[1].end  # both were written at the same time


def test_a_step_is_shared_equally_by_the_questions_that_ran_in_it() -> None:
    bench = Bench()
    done = bench.start("write 1 sleep 0.02", "write 8")
    bench.finish()
    short, long = done.result().question_phases
    assert short.prefill + short.decode >= 0.02 * 2 / 2
    assert long.total == pytest.approx(short.total, rel=0.5)  # it shares both slow steps; its own six cost nothing


def test_the_oldest_turn_goes_first_whatever_the_order_of_arrival() -> None:
    bench = Bench(max_running=1)
    bench.start("write 2", submitted_at=1.0)
    bench.step()
    bench.start("write 1", "write 1", submitted_at=5.0)
    bench.start("write 1", submitted_at=3.0)
    bench.finish()
    assert bench.engine.started == ["q0", "q0", "q0", "q1"]
    grown = [event.number for event in bench.events if isinstance(event, TextGrown)]
    assert grown == [1, 1, 3, 2, 2]


def test_tokens_are_reported_while_a_text_grows() -> None:
    bench = Bench()
    bench.start("write 3")
    bench.step(2)
    assert [(event.question_id, event.num_tokens) for event in bench.events if isinstance(event, TextGrown)] == [
        ("q0", 1),
        ("q0", 2),
    ]
    (progress,) = bench.writer.progress
    assert (progress.step, progress.num_done, progress.num_total) == ("token", 2, 20)


def test_an_agent_that_does_not_answer_reports_no_single_questions() -> None:
    """Its readers wait for the whole turn."""
    bench = Bench()
    done = bench.start("write 1", "write 4", is_last=False)
    bench.finish()
    assert ended(bench) == []
    assert len(done.result().texts) == 2


@pytest.mark.parametrize(
    ("prompt", "why"), [("write 2 error", "it went wrong"), ("refuse", "this memory cannot be read")]
)
def test_a_question_that_cannot_be_written_fails_alone(prompt: str, why: str) -> None:
    bench = Bench()
    done = bench.start("write 4", prompt, "write 5")
    bench.finish()
    result = done.result()
    assert result.failed == {"q1": why}
    assert (result.texts[0], result.texts[2]) == (text_of("write 4", 4), text_of("write 5", 5))
    assert (1, "q1") in ended(bench)


def test_a_question_that_takes_too_long_fails_alone() -> None:
    bench = Bench(max_running=2)
    done = bench.start("write 18", "write 9", "write 19")
    bench.seconds[:] = [1.0] * 11
    bench.step(10)  # the second has ended, the third has just started or waits
    bench.finish()
    assert done.result().failed == {"q0": "it took longer than 10.0 s (turn_timeout)"}
    assert done.result().texts[2] == text_of("write 19", 19)
    assert bench.engine._running == {}


def test_time_in_the_queue_is_not_the_time_of_a_question() -> None:
    bench = Bench(max_running=1)
    done = bench.start("write 3", "write 3")
    bench.seconds[:] = [3.0, 3.0, 3.0, 0.0, 3.0, 3.0, 3.0]
    bench.finish()
    assert done.result().failed == {}
    assert bench.clock.now == 18.0


def test_time_in_which_the_engine_queues_a_question_or_does_other_work_is_not_its_time() -> None:
    bench = Bench(max_running=2)
    done = bench.start("write 3", "write 9")
    bench.step()
    bench.clock.now += 60.0  # a whole turn is executed between two steps
    bench.step()
    assert bench.writer.num_steps == 2
    bench.writer.record_work(0.0)
    assert bench.writer.num_steps == 3  # which is no hang
    bench.engine.queued.update(key for key in bench.engine._running if key.endswith("q1"))
    bench.seconds[:] = [60.0]
    bench.step()
    assert [question.step_seconds for question in bench.writer._running.values()] == [60.0, 0.0]
    bench.finish_some(3)
    assert set(bench.writer._turns[1].received.work.question_ids) == {"q0", "q1"}
    bench.seconds[:] = [60.0]  # nobody else runs, so it does not wait for room
    bench.finish()
    assert set(done.result().failed) == {"q0", "q1"}


def test_a_question_without_room_waits_until_another_one_has_ended() -> None:
    bench = Bench(max_running=4, refuses_at=2)
    first, second = bench.start("write 3", "write 5", "write 2"), bench.start("write 1")
    bench.finish()
    assert first.result().failed == second.result().failed == {}
    assert bench.engine.started == ["q0", "q1", "q2", "q0"]  # the oldest first
    assert max(bench.engine.num_running) == 2


def test_a_question_without_room_fails_if_nothing_else_runs() -> None:
    bench = Bench(refuses_at=0)
    done = bench.start("write 3")
    bench.finish()
    assert done.result().failed == {"q0": "there is no room"}


def test_a_question_is_cancelled_wherever_it_is() -> None:
    bench = Bench(max_running=2)
    bench.writer.cancel(1, {"q3"})  # before its turn has come
    done = bench.start("write 9", "write 9", "write 9", "write 9")
    bench.step(2)
    bench.writer.cancel(1, {"q0", "q2"})  # one runs, one waits
    bench.writer.cancel(1, {"q0"})
    bench.finish()
    result = done.result()
    assert result.failed == {"q0": CANCELLED, "q2": CANCELLED, "q3": CANCELLED}
    assert result.texts[1] == text_of("write 9", 9)
    assert bench.engine.started == ["q0", "q1"]
    assert ended(bench) == []
    assert len(bench.engine.num_running) < 13  # it does not run to its end


def test_cancellations_of_turns_that_never_come_are_forgotten() -> None:
    """A turn may have ended by itself, or its memory may never come."""
    bench = Bench()
    for number in range(2, 5000):
        bench.writer.cancel(number, {"q0"})
    assert len(bench.writer._cancelled) <= 1000
    bench.writer.cancel(1)
    done = bench.start("write 9")
    bench.finish()
    assert done.result().failed == {"q0": CANCELLED}


def test_a_question_that_ends_in_the_step_in_which_it_is_cancelled_keeps_its_text() -> None:
    """The cancellation comes from another thread while the engine computes."""
    bench = Bench(max_running=2)
    alone, pair, other = bench.start("a 1"), bench.start("b 1", "c 3"), bench.start("d 5")
    step = bench.engine.step

    def step_and_cancel() -> Any:
        outputs = step()
        if any(output.end for output in outputs):
            bench.writer.cancel(1)
            bench.writer.cancel(2, ["q0"])
        return outputs

    bench.engine.step = step_and_cancel  # type: ignore[method-assign]
    bench.finish()
    assert alone.result().failed == {}
    assert alone.result().texts[0]
    assert other.result().texts[0]
    assert "q1" not in pair.result().failed


def test_a_result_that_cannot_be_made_ends_the_turn_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(max_running=2)
    turn = bench.start("a 2")
    monkeypatch.setattr(WrittenTurn, "result", lambda *_: 1 // 0)
    bench.finish()
    with pytest.raises(ActorError, match="division"):
        turn.result(timeout=0)


@pytest.mark.parametrize("copies", [True, False])
def test_memory_is_dropped_as_soon_as_no_question_reads_it(copies: bool) -> None:
    """Without the garbage collector, which does not know how large a tensor is."""
    bench = Bench(max_running=2, copies_memory=copies)
    received = bench.writer.receive(request("a 2", "b 4"), InMemorySegments({}))
    memory = ref(received.memory)
    gc.disable()
    try:
        turn = bench.writer.start(7, received)
        del received
        bench.step()
        assert (memory() is None) == copies
        bench.finish()
        assert turn.result().texts
        assert memory() is None
    finally:
        gc.enable()


def test_a_whole_turn_is_cancelled() -> None:
    bench = Bench()
    bench.writer.cancel(1)
    done = bench.start("write 9", "write 9")
    other = bench.start("write 2")
    bench.step(2)
    bench.writer.cancel(1, {"q0"})
    bench.finish()
    assert set(done.result().failed) == {"q0", "q1"}
    assert other.result().failed == {}


def test_questions_that_nobody_needs_are_left_out() -> None:
    bench = Bench()
    done = bench.start("write 2", "write 3", skipped=frozenset({"q0"}))
    none = bench.start("write 2", skipped=frozenset({"q0"}))
    bench.finish()
    assert done.result().texts == ("", text_of("write 3", 3))
    assert done.result().failed == {}
    assert none.result().texts == ("",)
    assert bench.engine.started == ["q1"]


def test_an_engine_that_dies_ends_all_turns_and_takes_no_more(tmp_path: Path) -> None:
    armed = tmp_path / "armed"
    armed.touch()
    bench = Bench(armed=armed, max_running=2)
    turns = [bench.start("write 3"), bench.start("write 3 die"), bench.start("write 3")]
    bench.finish()
    for turn in turns:
        with pytest.raises(ActorError, match=r"failed: the device is gone$"):
            turn.result()
    with pytest.raises(ActorError, match="the device is gone"):
        bench.start("write 1")


def test_a_writer_that_is_closed_ends_its_turns() -> None:
    bench = Bench()
    done = bench.start("write 3")
    bench.writer.close()
    assert bench.engine.is_closed
    with pytest.raises(ActorError, match="closed"):
        done.result()


def test_a_model_without_a_chat_template_ends_before_a_question_of_its_own() -> None:
    text = "The answer is 7.\n\nQuestion: What is 9 + 9?\nAnswer: 18"
    bench = Bench(chat=ByteChat(has_template=False), text=text)
    done = bench.start("write 9 and What is 3 + 4?", sampling=Sampling(max_new_tokens=100))
    bench.finish()
    assert done.result().texts == ("The answer is 7.\n\n",)
    assert done.result().cut_off == ("no",)
    assert bench.engine._running == {}


def test_a_text_that_ends_at_the_last_position_is_cut_off_there() -> None:
    bench = Bench(max_positions=12)
    done = bench.start("write 6", sampling=Sampling(max_new_tokens=6))
    bench.finish()
    assert done.result().cut_off == ("positions",)  # 7 prompt tokens, 6 written, the last is never read


def test_questions_that_cannot_fit_are_refused_before_the_first_step() -> None:
    bench = Bench(max_positions=8)
    with pytest.raises(QuestionsTooLongError, match="model scripted has 8"):
        bench.start("write 6", "write 6 but this is long")
    assert bench.queued == []
    small_cache = Bench(max_positions=8, positions_bound="its cache holds 8: use a larger one")
    with pytest.raises(QuestionsTooLongError, match=r"need 25 positions, its cache holds 8: use a larger one$"):
        small_cache.start("write 6", "write 6 but this is long")


@pytest.mark.parametrize(("decode_batch", "most"), [(1, 1), (2, 2), (4, 3), (None, 3)])
def test_a_turn_may_bound_what_is_written_at_the_same_time(decode_batch: int | None, most: int) -> None:
    """An engine that is loaded for more serves runs with fewer."""
    bench = Bench(max_running=3)
    turns = [bench.start("write 3", "write 5", "write 2", decode_batch=decode_batch) for _ in range(2)]
    bench.finish()
    assert all(turn.result().failed == {} for turn in turns)
    assert max(bench.engine.num_running) == most
