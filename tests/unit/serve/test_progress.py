"""How far running turns are: changes only, and few questions to the actors."""

import asyncio

from latentmas_ray.engine.timing.progress import Step, TurnProgress
from latentmas_ray.serve.teams.progress import ASK_SECONDS, QuestionProgress, RunningTurns


def turn(step: Step, done: int, *, agent: str = "planner", ids: tuple[str, ...] = ("q1",)) -> TurnProgress:
    return TurnProgress(agent=agent, question_ids=ids, step=step, num_done=done, num_total=9, seconds=1.0)


def test_a_turn_is_told_when_it_has_changed() -> None:
    progress = QuestionProgress("q1")
    assert list(progress.update([turn("prompt", 4)], ())) == [{"agent": "planner", "what": "reads", "running": True}]
    assert list(progress.update([turn("prompt", 8)], ())) == []
    steps = [record for done in (1, 1, 2) for record in progress.update([turn("latent step", done)], ())]
    assert steps == [
        {"agent": "planner", "what": "thinks", "running": True, "latent_steps": done, "of": 9} for done in (1, 2)
    ]


def test_turns_of_others_and_turns_that_are_over_are_left_out() -> None:
    progress = QuestionProgress("q1")
    assert list(progress.update([turn("latent step", 3, ids=("q7",))], ())) == []
    assert list(progress.update([turn("latent step", 3)], {"planner"})) == []


def test_the_tokens_of_a_batch_are_not_those_of_one_question() -> None:
    progress = QuestionProgress("q1")
    [alone] = progress.update([turn("token", 4, agent="judger")], ())
    assert (alone["what"], alone["tokens"], alone["of"]) == ("writes", 4, 9)
    [shared] = progress.update([turn("token", 5, agent="judger", ids=("q0", "q1"))], ())
    assert shared == {"agent": "judger", "what": "writes", "running": True}


def test_many_streams_ask_the_actors_once() -> None:
    now, asked = [0.0], [0]

    def ask() -> list[TurnProgress]:
        asked[0] += 1
        return [turn("prompt", asked[0])]

    async def watch() -> None:
        turns = RunningTurns(ask, clock=lambda: now[0])
        await asyncio.gather(*(turns.fetch() for _ in range(64)))
        assert asked == [1]
        now[0] += ASK_SECONDS
        assert (await turns.fetch())[0].num_done == 2

    asyncio.run(watch())
