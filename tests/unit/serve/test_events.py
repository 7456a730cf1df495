"""The records of one question, from the events of its run."""

from latentmas_ray.engine.diagnostics.trace import AgentTrace, Thought
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import Phases, SegmentRead, TurnResult
from latentmas_ray.runs.results import AgentUse, Answer, Transfer
from latentmas_ray.runs.run_events import RunProgress, TurnFinished, TurnRepeated
from latentmas_ray.serve.teams.events import QuestionEvents
from latentmas_ray.topology import load_topology

CHAIN = load_topology("chain-sequential")
PLANNER, CRITIC, *_, JUDGER = (agent.name for agent in CHAIN.agents)
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


def progress(step: str, done: int, *, agent: str = PLANNER, ids: tuple[str, ...] = ("q1",)) -> TurnProgress:
    return TurnProgress(agent=agent, question_ids=ids, step=step, num_done=done, num_total=9, seconds=1.0)  # type: ignore[arg-type]


def test_all_agents_wait_first() -> None:
    assert QuestionEvents("q1", CHAIN).queued() == [
        {"agent": agent.name, "what": "waits", "running": True} for agent in CHAIN.agents
    ]


def test_a_running_turn_is_told_when_it_changes() -> None:
    events = QuestionEvents("q1", CHAIN)
    assert events.running([progress("prompt", 4)]) == [{"agent": PLANNER, "what": "reads", "running": True}]
    assert events.running([progress("prompt", 8)]) == []
    steps = [record for done in (1, 1, 2) for record in events.running([progress("latent step", done)])]
    assert [(one["what"], one["latent_steps"], one["of"]) for one in steps] == [("thinks", 1, 9), ("thinks", 2, 9)]
    assert events.running([progress("latent step", 3, ids=("q7",)), progress("prompt", 0, agent="stranger")]) == []
    [alone] = events.running([progress("token", 4, agent=JUDGER)])
    assert (alone["what"], alone["tokens"]) == ("writes", 4)
    [shared] = events.running([progress("token", 5, agent=JUDGER, ids=("q0", "q1"))])
    assert "tokens" not in shared  # it is the longest text of the batch


def test_a_finished_turn_says_what_it_did() -> None:
    events = QuestionEvents("q1", CHAIN)
    assert events.observe(thought()) == [
        {"agent": PLANNER, "what": "waits", "seconds": 0.5},
        {"agent": PLANNER, "what": "reads", "seconds": 0.5, "tokens": 7},
        {"agent": PLANNER, "what": "thinks", "seconds": 2.0, "latent_steps": 3},
        {"agent": PLANNER, "what": "hands_over", "seconds": 0.125, "bytes": 200},
    ]
    assert events.running([progress("latent step", 9)]) == []  # it is over
    assert events.observe(thought(CRITIC, reads=PLANNER))[0] == {
        "agent": PLANNER, "what": "hands_over", "to": CRITIC, "bytes": 200, "transport": "tcp",
        "link": "same_process", "seconds": 0.2, "exposed_seconds": 0.1,
    }  # fmt: skip


def test_other_questions_and_other_events_are_not_told() -> None:
    events = QuestionEvents("q1", CHAIN)
    assert events.observe(thought(ids=("q5", "q6"))) == []
    assert events.observe(TurnRepeated(agent=PLANNER, reason="", question_ids=("q5",))) == []
    snapshot = RunProgress(
        num_questions=1, num_done=0, num_failed=0, batches_in_flight=0, memory_in_flight_bytes=0, tokens=0, seconds=0.0
    )
    assert events.observe(snapshot) == []


def test_a_lost_turn_starts_again() -> None:
    events = QuestionEvents("q1", CHAIN)
    events.observe(thought())
    assert events.observe(TurnRepeated(agent=PLANNER, reason="10.0.0.3 died", question_ids=("q0", "q1"))) == [
        {"agent": PLANNER, "what": "repeats"}  # without the reason, which may name a machine
    ]
    assert events.running([progress("latent step", 1)])[0]["what"] == "thinks"


def test_thoughts_come_only_if_they_are_asked_for() -> None:
    assert all(one["what"] != "thoughts" for one in QuestionEvents("q1", CHAIN).observe(thought()))
    assert all(one["what"] != "thoughts" for one in QuestionEvents("q0", CHAIN, lens=True).observe(thought()))
    last = QuestionEvents("q1", CHAIN, lens=True).observe(thought())[-1]
    assert (last["agent"], last["what"]) == (PLANNER, "thoughts")
    assert last["thoughts"][0]["tokens"] == (("So", 0.5),)


def test_an_answer_tells_of_the_agents_whose_turn_still_runs() -> None:
    events = QuestionEvents("q1", CHAIN)
    events.observe(thought())
    use = AgentUse(prompt_tokens=7, latent_steps=3, output_tokens=0, memory_bytes=200, seconds={"think": 2.0})
    wrote = AgentUse(prompt_tokens=9, latent_steps=0, output_tokens=4, memory_bytes=0, seconds={"decode": 1.5})
    answer = Answer(
        id="q1", question="", gold=None, answer="", answer_token_ids=(), prediction=None, correct=None, seconds=1.0,
        agents={PLANNER: use, JUDGER: wrote},
        transfers=(
            Transfer(source=PLANNER, reader=CRITIC, num_bytes=200, transport="tcp", seconds=0.2),
            Transfer(source=PLANNER, reader=JUDGER, num_bytes=200, transport="tcp", seconds=0.2, exposed_seconds=0.1),
        ),
    )  # fmt: skip
    told = events.answered(answer)
    assert [(one["agent"], one["what"]) for one in told] == [
        (PLANNER, "hands_over"), (JUDGER, "reads"), (JUDGER, "writes"),
    ]  # fmt: skip
    assert (told[0]["to"], told[-1]["tokens"], told[-1]["seconds"]) == (JUDGER, 4, 1.5)
