"""Tokens are reported as they are written, of the questions that want it; a stop text ends a text."""

from latentmas_ray.engine.turn import NewTokens
from latentmas_ray.writing.events import TextGrown
from tests.cases.scripted_engine import text_of
from tests.unit.writing.test_writer import Bench


def reported(bench: Bench, name: str) -> list[NewTokens | None]:
    return [event.new for event in bench.events if isinstance(event, TextGrown) and event.question_id == name]


def test_every_token_of_a_streamed_question_is_reported_once() -> None:
    bench = Bench(max_running=6)
    done = bench.start("write 4", "write 4", samples=2, streamed=frozenset({"q1"}))
    bench.finish()
    assert set(reported(bench, "q0")) == {None}
    for sample in range(2):
        new = [one for one in reported(bench, "q1") if one is not None and one.sample == sample]
        ids = tuple(token for one in new for token in one.token_ids)
        assert [one.first for one in new] == list(range(len(new)))
        whole = done.result().samples[1][sample].token_ids
        assert ids == whole[: len(ids)]
        assert len(whole) - len(ids) <= 1  # the result has the last one


def test_a_model_without_a_template_reports_none_as_its_text_may_be_cut() -> None:
    bench = Bench(max_running=2)
    bench.engine.chat.has_template = False
    bench.start("write 4", streamed=frozenset({"q0"}))
    bench.finish()
    assert set(reported(bench, "q0")) == {None}


def test_a_stop_text_ends_one_text_and_frees_its_place() -> None:
    whole = text_of("write 9", 9)
    bench = Bench(max_running=1)
    done = bench.start("write 9", "write 2", stop=(whole[3:5],))
    bench.finish()
    result = done.result()
    assert result.texts[0] == whole[:5]
    assert result.cut_off[0] == "no"
    assert not result.failed
    assert result.texts[1]
    assert len(bench.engine.num_running) < 9
