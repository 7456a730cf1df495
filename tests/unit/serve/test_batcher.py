"""Questions collect while the thinking agents are busy, and start at once when they are not."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.runs.run_events import TurnFinished
from latentmas_ray.serve.teams.batcher import Batcher, Lot, Stages
from latentmas_ray.serve.teams.reply import Reply
from latentmas_ray.serve.teams.settings import TeamRequest
from latentmas_ray.system.serving import CallSettings
from latentmas_ray.tasks.question import Question

CHAIN = Stages(
    roots=frozenset({"planner"}), thinkers=frozenset({"planner", "critic"}), replicas=1, writers=frozenset({"judger"})
)
NOTHING: frozenset[str] = frozenset()
WRITERS = Stages(roots=NOTHING, thinkers=NOTHING, replicas=1, writers=frozenset({"judger"}))
OTHERS = Stages(roots=NOTHING, thinkers=NOTHING, replicas=1, writers=frozenset({"reporter"}))


@dataclass
class Line:
    """A batcher whose lots do not run by themselves."""

    most: int = 8
    stages: Stages = CHAIN
    writes_at_once: int | None = None
    started: list[Lot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batcher = Batcher(self._stages_of, lambda reply: self.writes_at_once, self.started.append, self.most)

    def add(self, *ids: str, model: str = "chain", **settings: Any) -> list[Reply]:
        replies = [make_reply(name, model, **settings) for name in ids]
        for reply in replies:
            self.batcher.add(reply)
        return replies

    @property
    def lots(self) -> list[list[str]]:
        return [[reply.question.id for reply in lot.replies] for lot in self.started]

    def finish_turn(self, lot: int, agent: str) -> None:
        event = TurnFinished(report=TurnResult(agent=agent, prompt_tokens=(1,)))
        self.batcher.note(self.started[lot], event)

    def _stages_of(self, reply: Reply) -> Stages:
        return {"text": WRITERS, "report": OTHERS}.get(reply.request.model, self.stages)


def make_reply(name: str, model: str, weight: int = 1, **settings: Any) -> Reply:
    question = Question(id=name, question="?", kind="text", gold=None, record={})
    request = TeamRequest(model=model, question=question, settings=CallSettings(**settings), weight=weight)
    return Reply(request, question, lambda reply: None)


def test_a_question_starts_at_once_and_those_that_come_meanwhile_go_together() -> None:
    line = Line()
    line.add("a", "b", "c")
    assert line.lots == [["a"]]
    line.finish_turn(0, "planner")
    assert line.lots == [["a"], ["b", "c"]]
    line.add("d")
    assert line.batcher.num_waiting == 1


def test_a_full_pipeline_holds_the_first_agents_back() -> None:
    """Two agents think: a third batch starts when the first one's thinking is over, not only its first agent's."""
    line = Line()
    for name in ("a", "b", "c"):
        line.add(name)
        line.finish_turn(len(line.started) - 1, "planner")
    assert line.lots == [["a"], ["b"], ["c"]]  # two, and one that waits in front of the second agent
    line.add("d")
    assert line.batcher.num_waiting == 1
    line.finish_turn(0, "critic")
    assert line.lots[-1] == ["d"]


def test_the_end_of_a_lot_makes_room_whatever_its_turns_said() -> None:
    line = Line()
    line.add("a", "b")
    line.batcher.finish(line.started[0])
    assert line.lots == [["a"], ["b"]]
    assert line.batcher.num_lots == 1


def test_only_equal_settings_go_together_oldest_first() -> None:
    line = Line()
    line.add("a")
    line.add("b", temperature=0.5)
    line.add("c")
    line.add("d", temperature=0.5)
    line.finish_turn(0, "planner")
    assert line.lots == [["a"], ["b", "d"]]
    line.finish_turn(1, "planner")
    assert line.lots[2:] == [["c"]]


def test_equal_ids_and_full_batches_go_apart() -> None:
    line = Line(most=2)
    line.add("a")
    line.add("b", "b", "c", "d")
    line.finish_turn(0, "planner")
    assert line.lots[1:] == [["b", "c"]]
    line.finish_turn(1, "planner")
    assert line.lots[2:] == [["b", "d"]]


def test_texts_that_are_written_question_by_question_wait_for_nothing() -> None:
    line = Line()
    line.add("a", "b")
    line.add("x", "y", model="text")
    assert line.lots == [["a"], ["x"], ["y"]]


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_replica_of_the_first_agent_gets_a_lot(replicas: int) -> None:
    line = Line(stages=replace(CHAIN, replicas=replicas))
    line.add("a", "b", "c", "d")
    assert len(line.started) == replicas


def test_a_question_that_is_given_up_does_not_start() -> None:
    line = Line()
    _, b = line.add("a", "b")
    assert line.batcher.remove(b)
    assert not line.batcher.remove(b)
    line.finish_turn(0, "planner")
    assert line.lots == [["a"]]


def loaded_line(num_thought: int) -> Line:
    """A line whose writer, which writes two questions at once, has so many that were thought about."""
    line = Line(most=4, writes_at_once=2)
    for number in range(num_thought):
        line.add(f"before {number}")
        for agent in ("planner", "critic"):
            line.finish_turn(number, agent)
    assert len(line.started) == num_thought
    return line


def test_behind_a_backlog_of_texts_a_lot_waits_until_it_is_full() -> None:
    line = loaded_line(num_thought=4)
    line.add("a", "b", "c")
    assert line.batcher.num_waiting == 3
    line.add("d", "e")
    assert line.lots[4:] == [["a", "b", "c", "d"]]
    assert line.batcher.num_waiting == 1


def test_a_lot_waits_for_more_no_longer_than_the_backlog_lasts() -> None:
    line = loaded_line(num_thought=4)
    line.add("a", "b")
    assert line.batcher.num_waiting == 2
    line.started[0].replies[0].is_over = True
    line.batcher.start_next()
    assert line.lots[4:] == [["a", "b"]]


def test_a_lot_waits_for_no_questions_that_still_think() -> None:
    """Then those who write may soon have nothing to do."""
    line = loaded_line(num_thought=3)
    line.add("a")
    assert line.lots[3:] == [["a"]]
    line.finish_turn(3, "planner")
    line.add("b")
    assert line.lots[4:] == [["b"]]


def test_a_question_that_waits_for_others_like_it_is_not_overtaken() -> None:
    line = loaded_line(num_thought=4)
    line.add("a", temperature=0.5)
    line.add("b", "c", "d", "e")
    assert line.batcher.num_waiting == 5
    line.started[0].replies[0].is_over = True
    line.batcher.start_next()
    assert line.lots[4:] == [["a"]]


def test_a_question_that_is_asked_again_alone_waits_for_no_other() -> None:
    line = loaded_line(num_thought=4)
    line.batcher.add_alone([make_reply("a", "chain")])
    assert line.lots[4:] == [["a"]]


def test_more_replicas_that_write_end_the_wait() -> None:
    line = loaded_line(num_thought=4)
    line.add("a")
    assert line.batcher.num_waiting == 1
    line.writes_at_once = 4
    line.batcher.start_next()
    assert line.lots[4:] == [["a"]]


def test_those_who_waited_behind_a_question_that_is_given_up_start() -> None:
    line = loaded_line(num_thought=4)
    (first,) = line.add("a", temperature=0.5)
    line.add("b", "c", "d", "e")
    assert line.batcher.remove(first)
    assert line.lots[4:] == [["b", "c", "d", "e"]]


def test_a_lot_waits_for_no_answers_that_were_begun_after_it_had_come() -> None:
    """There may always be new ones, of models whose agents hold no place, and it would wait for ever."""
    line = loaded_line(num_thought=2)
    line.add("x", "y", model="text")
    line.add("a")
    assert line.batcher.num_waiting == 1
    line.add("z", "u", "v", model="text")  # they overtake it
    assert len(line.started) == 7
    line.started[2].replies[0].is_over = True  # x: of those that were there before, three are left
    line.batcher.start_next()
    assert line.lots[7:] == [["a"]]


def test_answers_that_came_before_a_question_count_whatever_their_model() -> None:
    line = Line(most=4, writes_at_once=2)
    line.add("x", "y", "z", "u", model="text")
    line.add("a")
    assert line.batcher.num_waiting == 1


def test_a_lot_waits_for_no_texts_that_other_actors_write() -> None:
    line = Line(most=4, writes_at_once=2)
    line.add("x", "y", "z", "u", model="report")
    line.add("a")
    assert line.lots[4:] == [["a"]]


def test_several_samples_are_a_longer_backlog() -> None:
    line = Line(most=4, writes_at_once=2)
    (many,) = line.add("x", model="text", weight=4)
    line.add("a")
    assert line.batcher.num_waiting == 1
    many.is_over = True
    line.batcher.start_next()
    assert line.lots[1:] == [["a"]]
