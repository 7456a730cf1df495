"""One writer for the turns of many threads, each of which waits for its own."""

from concurrent.futures import ThreadPoolExecutor

from latentmas_ray.engine.segment_io import InMemorySegments
from latentmas_ray.writing.writer import Writer
from tests.cases.scripted_engine import ScriptedEngine, text_of
from tests.unit.writing.test_writer import request


def test_turns_of_many_threads_are_written_by_one() -> None:
    engine = ScriptedEngine(max_running=3)
    with ThreadPoolExecutor(1) as owner, ThreadPoolExecutor(8) as callers:
        writer = Writer(engine, owner.submit)

        def call(number: int) -> tuple[str, ...]:
            work = request(f"write {number % 7 + 1}", f"write {number % 3 + 1}")
            return writer.start(number, writer.receive(work, InMemorySegments({}))).result().texts

        texts = list(callers.map(call, range(40)))
    counts = [(number % 7 + 1, number % 3 + 1) for number in range(40)]
    assert texts == [tuple(text_of(f"write {count}", count) for count in pair) for pair in counts]
    assert max(engine.num_running) == 3
