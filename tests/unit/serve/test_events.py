"""The records of one question, from the events of its run."""

from latentmas_ray.engine.diagnostics.trace import AgentTrace, Thought
from latentmas_ray.engine.turn import NewTokens, Phases, SegmentRead, TurnResult
from latentmas_ray.runs.results import AgentUse, Answer, Transfer
from latentmas_ray.runs.run_events import TurnFinished, TurnRepeated
from latentmas_ray.runs.traces import Trace
from latentmas_ray.serve.teams.events import QuestionRecords
from latentmas_ray.topology import load_topology

CHAIN = load_topology("chain-sequential")
PLANNER, CRITIC, REFINER, JUDGER = (agent.name for agent in CHAIN.agents)
THOUGHT = Thought(tokens=(("So", 0.5),), entropy=1.0, norm=2.0, distance=0.5, nearest="So", xy=(0.0, 0.0))


def thought(agent: str = PLANNER, *, ids: tuple[str, ...] = ("q0", "q1"), reads: str | None = None) -> TurnFinished:
    """A latent turn over two questions: the second has twice the memory of the first."""
    read = SegmentRead(source=reads or "", num_bytes=300, transport="tcp", seconds=0.2, exposed_seconds=0.1)
    return TurnFinished(
        report=TurnResult(
            agent=agent,
            prompt_tokens=(5, 7),
            latent_steps=3,
            phases=Phases(wait=0.5, absorb=0.25, prefill=0.25, think=2.0, emit=0.125),
            segment_bytes=(100, 200),
            reads=(read,) if reads else (),
            traces={"q1": AgentTrace(prompt="", thoughts=(THOUGHT,))},
        ),
        question_ids=ids,
    )


def records(name: str = "q1", *, lens: bool = False) -> QuestionRecords:
    made = QuestionRecords(CHAIN, name, 64, lens=lens)
    list(made.start())
    return made


def test_all_agents_wait_first_and_those_that_read_nobody_begin() -> None:
    *waits, last = QuestionRecords(CHAIN, "q1", None).start()
    assert waits == [{"agent": agent.name, "what": "waits", "running": True} for agent in CHAIN.agents]
    assert last == {"agent": PLANNER, "what": "reads", "running": True}


def test_a_finished_turn_says_what_it_did_and_its_reader_begins() -> None:
    made = records()
    assert list(made.finish_turn(thought())) == [
        {"agent": PLANNER, "what": "waits", "seconds": 0.5},
        {"agent": PLANNER, "what": "reads", "seconds": 0.5, "tokens": 7},
        {"agent": PLANNER, "what": "thinks", "seconds": 2.0, "latent_steps": 3},
        {"agent": CRITIC, "what": "reads", "running": True},
    ]
    assert made.finished == {PLANNER}
    assert next(made.finish_turn(thought(CRITIC, reads=PLANNER))) == {
        "agent": PLANNER,
        "what": "hands_over",
        "to": CRITIC,
        "bytes": 200,
        "transport": "tcp",
        "seconds": 0.2,
        "exposed_seconds": 0.1,
    }  # fmt: skip  its share of the batch's 300 bytes


def test_other_questions_are_not_told() -> None:
    made = records()
    assert list(made.finish_turn(thought(ids=("q5", "q6")))) == []
    assert list(made.repeat(TurnRepeated(agent=PLANNER, reason="", question_ids=("q5",)))) == []


def test_only_the_first_tokens_make_a_record() -> None:
    made = records()
    first = NewTokens(sample=0, first=0, token_ids=(4, 5))
    assert list(made.write(JUDGER, first)) == [
        {"agent": JUDGER, "what": "writes", "running": True, "tokens": 2, "of": 64}
    ]
    assert list(made.write(JUDGER, first)) == []


def test_a_lost_turn_starts_again() -> None:
    made = records()
    list(made.finish_turn(thought()))
    lost = TurnRepeated(agent=PLANNER, reason="10.0.0.3 died", question_ids=("q0", "q1"))
    assert list(made.repeat(lost)) == [{"agent": PLANNER, "what": "repeats"}]  # the reason may name a machine
    assert made.finished == set()
    assert [one["what"] for one in made.finish_turn(thought())] == ["waits", "reads", "thinks"]


def test_thoughts_come_only_if_they_are_asked_for() -> None:
    assert all(one["what"] != "thoughts" for one in records().finish_turn(thought()))
    assert all(one["what"] != "thoughts" for one in records("q0", lens=True).finish_turn(thought()))
    [found] = [one for one in records(lens=True).finish_turn(thought()) if one["what"] == "thoughts"]
    assert (found["agent"], found["thoughts"][0]["tokens"]) == (PLANNER, (("So", 0.5),))


def answered() -> Answer:
    """An answer of which the planner and the judger are known."""
    use = AgentUse(
        prompt_tokens=7, latent_steps=3, output_tokens=0, memory_bytes=200, seconds={"think": 2.0}, cut_off="no"
    )
    wrote = AgentUse(prompt_tokens=9, latent_steps=0, output_tokens=4, memory_bytes=0, seconds={"decode": 1.5})
    return Answer(
        id="q1", question="", gold=None, answer="", answer_token_ids=(), prediction=None, correct=None, seconds=1.0,
        agents={PLANNER: use, JUDGER: wrote},
        transfers=(
            Transfer(source=PLANNER, reader=CRITIC, num_bytes=200, transport="tcp", seconds=0.2),
            Transfer(source=PLANNER, reader=JUDGER, num_bytes=200, transport="tcp", seconds=0.2, exposed_seconds=0.1),
        ),
        trace=Trace(id="q1", agents={PLANNER: AgentTrace(prompt="", thoughts=(THOUGHT,))}),
    )  # fmt: skip


def test_an_answer_tells_of_the_agents_whose_turn_still_runs() -> None:
    made = records()
    list(made.finish_turn(thought()))
    told = list(made.finish(answered()))
    assert [(one["agent"], one["what"]) for one in told] == [
        (PLANNER, "hands_over"), (JUDGER, "waits"), (JUDGER, "reads"), (JUDGER, "writes"),
    ]  # fmt: skip
    assert (told[0]["to"], told[-1]["tokens"], told[-1]["seconds"]) == (JUDGER, 4, 1.5)


def test_an_answer_that_comes_before_all_turns_tells_of_all_agents() -> None:
    told = list(records(lens=True).finish(answered()))
    assert [(one["agent"], one["what"]) for one in told][:4] == [
        (PLANNER, "waits"),
        (PLANNER, "reads"),
        (PLANNER, "thinks"),
        (PLANNER, "thoughts"),
    ]  # fmt: skip  it wrote nothing
    assert told[-1]["what"] == "writes"
