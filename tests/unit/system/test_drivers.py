"""A run that is divided among several drivers: who does what, what a death costs, and what the run's folder has."""

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.config import RunConfig, make_config
from latentmas_ray.errors import ConfigError, JournalError, LatentMASError, ModelError, RunError
from latentmas_ray.placement import ClusterPart, NodeResources, divide_nodes
from latentmas_ray.runs.journal import Journal
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import QuestionAnswered, RunEnded, RunEvent, RunProgress, RunStarted, TurnRepeated
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.system import LatentMAS
from latentmas_ray.system.drivers.division import MAX_RESTARTS, Division
from latentmas_ray.system.drivers.journals import driver_folder, driver_folders, finish_folders, take_over
from latentmas_ray.system.drivers.messages import Message, pack_error, read_message, unpack_error
from latentmas_ray.tasks.question import Question
from tests.cases.report import make_answer, make_trace

NUM_QUESTIONS = 10
CONFIG = make_config({"batch_size": 2, "drivers": 2, "replicas": 2, "task": "sample"})


def questions(count: int = NUM_QUESTIONS) -> list[Question]:
    made = [make_answer(number, CONFIG) for number in range(count)]
    return [Question(id=one.id, question=one.question, kind="number", gold=one.gold, record={}) for one in made]


def answer(name: str) -> Answer:
    return make_answer(int(name.removeprefix("q")), CONFIG)


class FakeDriver:
    """Answers at once what it is asked for, until it has answered `dies_after` questions."""

    def __init__(self, number: int, pool: "FakePool", dies_after: int | None, error: LatentMASError | None) -> None:
        self.number, self.name = number, f"driver {number + 1}"
        self._pool, self._dies_after, self._error = pool, dies_after, error

    def send(self, **message: Any) -> None:
        self._pool.asked.append((self.number, message))
        folder = Path(message["folder"])
        batches = [one for one in plan_batches(questions(), CONFIG.batch_size) if one.number in message["batches"]]
        names = [one.id for batch in batches for one in batch.questions if one.id not in message["done"]]
        with Journal.open(folder, CONFIG.model_copy(update={"resume": True}), questions()) as journal:
            known = {one.id for one in journal.answers}
            journal.record(*[answer(name) for name in names[: self._dies_after] if name not in known])
        if self._error is not None:
            self._pool.tell(self, type="error", error=pack_error(self._error))
        if self._dies_after is not None and self._dies_after < len(names):
            self._pool.messages.append((self, None))
            return
        figures = {"batches_in_flight": 1, "memory_in_flight_bytes": 5, "tokens": 7, "num_writing": 0}
        self._pool.tell(self, type="progress", **figures)
        self._pool.tell(self, type="done")

    def how_it_ended(self) -> str:
        return "it was ended by signal 9"


class FakePool:
    """Drivers by number; `dies_after` of each start of each."""

    def __init__(
        self,
        count: int = 2,
        dies_after: Mapping[int, list[int | None]] | None = None,
        error: LatentMASError | None = None,
    ) -> None:
        self.messages: deque[tuple[FakeDriver, Message | None]] = deque()
        self.asked: list[tuple[int, dict[str, Any]]] = []
        self._fates = {number: deque((dies_after or {}).get(number, [])) for number in range(count)}
        self._error = error
        self.processes: dict[int, FakeDriver] = {}
        for number in range(count):
            self._start(number)

    def _start(self, number: int) -> None:
        fate = self._fates[number].popleft() if self._fates[number] else None
        self.processes[number] = FakeDriver(number, self, fate, self._error if fate is not None else None)

    def tell(self, driver: FakeDriver, **message: Any) -> None:
        read = read_message(json.dumps(message).encode())
        assert read is not None
        self.messages.append((driver, read))

    def next_message(self) -> tuple[FakeDriver, Message | None] | None:
        driver, message = self.messages.popleft()
        return (driver, message) if self.processes.get(driver.number) is driver else None

    def restart(self, number: int) -> None:
        self._start(number)

    def give_up(self, number: int) -> None:
        del self.processes[number]


class Listener:
    def __init__(self) -> None:
        self.events: list[RunEvent] = []

    def on_event(self, event: RunEvent) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def divide(pool: FakePool, folder: Path, done: tuple[str, ...] = ()) -> tuple[list[Answer | Failure], Listener]:
    listener = Listener()
    batches = plan_batches(questions(), CONFIG.batch_size, done)
    division = Division(pool, CONFIG, questions(), batches, folder, listener)
    results = []
    for result in division.results():
        results.append(result)
    return results, listener


def ids(results: list[Answer | Failure]) -> list[str]:
    return sorted((one.id for one in results), key=lambda name: int(name[1:]))


ALL = [f"q{number}" for number in range(NUM_QUESTIONS)]


def test_every_batch_has_one_driver_and_every_question_one_answer(tmp_path: Path) -> None:
    pool = FakePool()
    results, listener = divide(pool, tmp_path)
    assert ids(results) == ALL
    assert [(number, message["batches"]) for number, message in pool.asked] == [(0, [0, 2, 4]), (1, [1, 3])]
    started, ended = listener.events[0], listener.events[-1]
    assert isinstance(started, RunStarted)
    assert isinstance(ended, RunEnded)
    assert len(listener.of(QuestionAnswered)) == NUM_QUESTIONS
    last = listener.of(RunProgress)[-1]
    assert last.tokens == 14  # of both, which have ended
    assert (last.num_done, last.num_questions, last.num_failed) == (NUM_QUESTIONS, NUM_QUESTIONS, 0)


def test_what_has_an_answer_is_not_asked_for_again(tmp_path: Path) -> None:
    pool = FakePool()
    results, listener = divide(pool, tmp_path, done=("q0", "q1", "q2"))
    assert ids(results) == ALL[3:]
    assert [message["batches"] for _, message in pool.asked] == [[1, 3], [2, 4]]  # a half-finished batch stays whole
    assert all({"q0", "q1", "q2"} <= set(message["done"]) for _, message in pool.asked)
    assert listener.events[0] == RunStarted(description="2 drivers", num_questions=NUM_QUESTIONS, num_done=3)


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_a_driver_that_dies_is_started_again_with_what_it_had_left(after: int, tmp_path: Path) -> None:
    pool = FakePool(dies_after={0: [after]})
    results, listener = divide(pool, tmp_path)
    assert ids(results) == ALL
    again = [message for number, message in pool.asked if number == 0][1]
    answered = ["q0", "q1", "q4", "q5", "q8", "q9"][:after]
    assert set(answered) <= set(again["done"])
    (told,) = listener.of(TurnRepeated)
    assert "driver 1 was lost (it was ended by signal 9); it starts again" in told.reason
    assert f"{6 - after} question" in told.reason


def test_a_driver_that_dies_again_and_again_leaves_its_questions_to_the_others(tmp_path: Path) -> None:
    pool = FakePool(dies_after={0: [0] * (MAX_RESTARTS + 1)})
    results, _ = divide(pool, tmp_path)
    assert ids(results) == ALL
    assert list(pool.processes) == [1]
    assert pool.asked[-1] == (1, {**pool.asked[-1][1], "batches": [0, 2, 4]})


def test_answers_in_between_give_a_driver_all_its_starts_again(tmp_path: Path) -> None:
    pool = FakePool(dies_after={0: [1] * 5})  # one more answer at each start
    results, listener = divide(pool, tmp_path)
    assert ids(results) == ALL
    assert sorted(pool.processes) == [0, 1]
    assert len(listener.of(TurnRepeated)) == 5


def test_the_run_ends_with_the_error_of_the_last_driver_once_the_others_have_answered(tmp_path: Path) -> None:
    lost: list[int | None] = [0] * (MAX_RESTARTS + 1)
    error = RunError("no node is left")
    pool = FakePool(dies_after={0: lost, 1: [1, *lost]}, error=error)
    batches = plan_batches(questions(), CONFIG.batch_size)
    results = Division(pool, CONFIG, questions(), batches, tmp_path, Listener()).results()
    assert next(results).id == "q2"  # and its row is on disk
    with pytest.raises(RunError, match="no node is left"):
        next(results)


def test_bad_input_ends_the_run_at_once(tmp_path: Path) -> None:
    pool = FakePool(dies_after={1: [0]}, error=ModelError("model", "nothing", "it must be there"))
    with pytest.raises(ModelError, match="it must be there"):
        divide(pool, tmp_path)


def test_errors_come_through_as_they_were() -> None:
    error = ModelError("model", "nothing", "it must be there")
    assert str(unpack_error(pack_error(error))) == str(error)
    assert isinstance(unpack_error(pack_error(ZeroDivisionError("by hand"))), RunError)
    assert read_message(b'{"type": "progr') is None
    assert read_message(b"[1]") is None


def journal_of(folder: Path, config: RunConfig = CONFIG) -> Journal:
    return Journal.open(folder, config, questions())


def left_behind(folder: Path, *names: str, half_a_row: bool = False) -> None:
    """What a driver leaves whose run was killed."""
    with journal_of(folder, CONFIG.model_copy(update={"resume": True})) as journal:
        journal.record(*[answer(name) for name in names])
    if half_a_row:
        with (folder / "results.jsonl").open("ab") as file:
            file.write(b'{"id": "q9", "quest')


def test_a_resumed_run_takes_the_answers_of_all_drivers_over(tmp_path: Path) -> None:
    with journal_of(tmp_path) as journal:
        journal.record(answer("q4"))
    left_behind(driver_folder(tmp_path, 0), "q4", "q0", half_a_row=True)
    left_behind(driver_folder(tmp_path, 11), "q3")
    resumed = CONFIG.model_copy(update={"resume": True, "drivers": 1})
    with journal_of(tmp_path, resumed) as journal:
        take_over(journal, resumed, questions(), {})
        assert [one.id for one in journal.answers] == ["q0", "q3", "q4"]
        assert journal.num_resumed == 3
    assert driver_folders(tmp_path) == []


def test_traces_and_timelines_come_along(tmp_path: Path) -> None:
    own = driver_folder(tmp_path, 0)
    resumed = CONFIG.model_copy(update={"resume": True})
    with journal_of(own, resumed) as left:
        left.record(make_answer(0, CONFIG, trace=make_trace("q0")))
        left.timeline.add_rows(b'{"event": "end", "at": 1.0}\n{"event": "e')
    with journal_of(tmp_path, resumed) as journal:
        take_over(journal, resumed, questions(), {})
    assert json.loads((tmp_path / "traces.jsonl").read_text())["id"] == "q0"
    assert (tmp_path / "timeline.jsonl").read_text() == '{"event": "end", "at": 1.0}\n'


def test_answers_of_drivers_are_not_lost_by_a_new_run_in_their_folder(tmp_path: Path) -> None:
    left_behind(driver_folder(tmp_path, 0), "q0")
    with journal_of(tmp_path) as journal, pytest.raises(JournalError, match="driver-1 has answers of an earlier start"):
        take_over(journal, CONFIG, questions(), {})
    assert driver_folder(tmp_path, 0).exists()


def test_answers_of_another_run_are_refused(tmp_path: Path) -> None:
    left_behind(driver_folder(tmp_path, 0), "q0")
    other = CONFIG.model_copy(update={"resume": True, "seed": 7})
    with journal_of(tmp_path, other) as journal, pytest.raises(JournalError, match="seed"):
        take_over(journal, other, questions(), {})


def test_folders_go_when_the_run_has_all_answers(tmp_path: Path) -> None:
    left_behind(driver_folder(tmp_path, 0), "q0")
    with journal_of(tmp_path) as journal:
        journal.record(answer("q0"))
        finish_folders(journal)
    assert driver_folders(tmp_path) == []


def node(name: str, gpus: int = 8, cpus: float = 64.0) -> NodeResources:
    return NodeResources(name=name, num_gpus=gpus, num_cpus=cpus)


def test_nodes_are_divided_whole_where_that_comes_out_even() -> None:
    nodes = [node("a", 4), node("b"), node("c", 4), node("d")]
    parts = divide_nodes(nodes, 2)
    assert [part.nodes for part in parts] == [("b", "a"), ("d", "c")]
    assert [part.of_node(nodes[0]) for part in parts] == [nodes[0], None]


def test_else_each_driver_has_a_share_of_every_node() -> None:
    parts = divide_nodes([node("a", 7, 10.0)], 3)
    shares = [part.of_node(node("a", 7, 10.0)) for part in parts]
    assert [share.num_gpus for share in shares if share is not None] == [3, 2, 2]
    assert sum(share.num_cpus for share in shares if share is not None) == pytest.approx(10.0)
    assert ClusterPart().of_node(node("a")) == node("a")


def test_a_cluster_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ConfigError, match="drivers: got '3'; 2 nodes cannot be divided evenly"):
        divide_nodes([node("a", 2), node("b", 2)], 3)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"replicas": 1}, "replicas", "planner needs at least 2"),
    ({"replicas": {"planner": 2, "judger": 4}}, "replicas", "critic needs at least 2"),
    ({"replicas": {"planner+critic+refiner+judger": 1}}, "replicas", "needs at least 2"),
    ({"replicas": 2, "max_replicas": "auto"}, "max_replicas", "a fixed part of the cluster"),
    ({"replicas": 2, "min_replicas": 1}, "min_replicas", "a fixed part of the cluster"),
    ({"replicas": 2, "detach": 600, "output": "run"}, "detach", "is started again by the run"),
    ({"replicas": 2, "drivers": 65}, "drivers", "64"),
    ({"replicas": 2, "drivers": 0}, "drivers", "1"),
    ({"replicas": 2, "drivers": True}, "drivers", "it must be a number"),
]


@pytest.mark.parametrize(("fields", "field", "expected"), BAD)
def test_what_several_drivers_cannot_have_is_one_line(fields: dict[str, Any], field: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        LatentMAS("tiny", **{"drivers": 2, **fields})
    assert raised.value.field == field
    assert expected in raised.value.expected
    assert "\n" not in str(raised.value)


def test_one_process_needs_no_division() -> None:
    with pytest.warns(UserWarning, match="drivers"):
        mas = LatentMAS("tiny", runtime="local", drivers=4)
    assert mas.config.drivers == 4


def test_closing_before_anything_has_started_is_nothing() -> None:
    LatentMAS("tiny", drivers=2, replicas=2).close()
