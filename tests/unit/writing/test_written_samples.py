"""Several texts for one question: they end, fail and are cancelled together."""

from latentmas_ray.engine.turn import Sampling
from latentmas_ray.seeds import sample_seed
from latentmas_ray.writing.writer import TextGrown
from latentmas_ray.writing.written_turn import CANCELLED
from tests.cases.scripted_engine import text_of
from tests.unit.writing.test_writer import Bench, ended


def test_all_texts_of_a_question_stand_in_its_result() -> None:
    bench = Bench(max_running=6)
    done = bench.start("write 3", "write 1", samples=3)
    bench.finish()
    result = done.result()
    assert [len(texts) for texts in result.samples] == [3, 3]
    assert {text.text for text in result.samples[0]} == {text_of("write 3", 3)}
    assert result.texts == (text_of("write 3", 3), text_of("write 1", 1))
    assert result.num_written(0) == 9
    assert result.memory_tokens == (3 * (7 + 3), 3 * (7 + 1))
    assert result.prompt_tokens == (7, 7)
    assert len(result.question_phases) == len(result.question_spans) == 2
    for spans in result.question_spans:
        assert [span.phase for span in spans] == ["prefill", "decode"]
        assert spans[0].end == spans[1].begin
    assert bench.engine.num_running == [6, 6, 3, 3]


def test_a_question_is_over_when_its_last_text_has_ended() -> None:
    bench = Bench(max_running=3)  # the second question's texts start when the first's have ended
    bench.start("write 1", "write 5", samples=3)
    bench.finish()
    assert ended(bench) == [(1, "q0")]
    grown = [event.num_tokens for event in bench.events if isinstance(event, TextGrown) and event.question_id == "q1"]
    assert max(grown) == 15
    assert grown == sorted(grown)


def test_texts_have_seeds_and_keys_of_their_own_and_share_a_group() -> None:
    bench = Bench(max_running=4)
    bench.start("write 1", samples=2, sampling=Sampling(seed=7, temperature=1.0, max_new_tokens=4))
    bench.step()
    requests = bench.engine.requests
    assert [request.sampling.seed for request in requests] == [7, sample_seed(7, 1)]
    assert len({request.key for request in requests}) == 2
    assert {request.group for request in requests} == {requests[0].key}
    bench.finish()
    bench.start("write 1")
    bench.finish()
    assert bench.engine.requests[-1].group == ""


def test_one_text_that_fails_ends_the_others_of_its_question() -> None:
    bench = Bench(max_running=6)
    done = bench.start("write 2 error", "write 9", samples=2)
    bench.finish()
    result = done.result()
    assert list(result.failed) == ["q0"]
    assert result.failed["q0"] != CANCELLED
    assert [len(text.token_ids) for text in result.samples[1]] == [9, 9]


def test_a_cancelled_question_loses_all_of_its_texts() -> None:
    bench = Bench(max_running=6)
    done = bench.start("write 9", "write 2", samples=2)
    bench.step()
    bench.writer.cancel(1, ["q0"])
    bench.finish()
    assert done.result().failed == {"q0": CANCELLED}
    assert ended(bench) == []


def test_decode_batch_counts_questions() -> None:
    bench = Bench(max_running=8)
    bench.start("write 2", "write 2", samples=2, decode_batch=1)
    bench.finish()
    assert max(bench.engine.num_running) == 2


def test_the_key_of_the_first_text_is_that_of_the_question() -> None:
    bench = Bench()
    bench.start("write 1", samples=2)
    bench.step()
    (first, second) = [request.key for request in bench.engine.requests]
    assert first == "1 0 q0"
    assert second == "1 0 q0 1"
