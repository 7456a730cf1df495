"""`ServedTeams` without actors: what starts, and when."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from latentmas_ray.config import make_config
from latentmas_ray.engine.turn import NewTokens
from latentmas_ray.errors import RunError
from latentmas_ray.runs.results import Failure
from latentmas_ray.runs.run_events import TextWritten
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.scheduler.run import Result
from latentmas_ray.serve.teams.reply import Reply
from latentmas_ray.serve.teams.served import ServedTeams
from latentmas_ray.serve.teams.settings import TeamRequest
from latentmas_ray.system.call import Call
from latentmas_ray.system.live_runtime import LiveRuntime
from latentmas_ray.system.serving import Fleet
from latentmas_ray.tasks.question import Question

WRITES = {"judger": 1, "solver": 1}  # the solver, one agent alone, has the judger's actor


def ask(teams: ServedTeams, model: str) -> Reply:
    question = Question(id="q0", question="How many?", kind="text", gold=None, record={})
    return teams.ask(TeamRequest(model=f"latentmas/{model}", question=question, streams=True))


def with_a_backlog(
    test: Callable[[ServedTeams, list[Reply]], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a test with two answers that the judger, which writes one at a time, has to write."""
    teams = ServedTeams(make_config({"model": "tiny", "topology": "sequential", "runtime": "local"}))
    info = RuntimeInfo(bytes_per_token=1, memory_limit_bytes=1, description="", writes_at_once=WRITES)
    monkeypatch.setattr(LiveRuntime, "start", lambda *_: info)
    monkeypatch.setattr(LiveRuntime, "writes_at_once", lambda _: WRITES)

    async def run() -> None:
        await teams.start()
        await test(teams, [ask(teams, "sequential/single") for _ in range(2)])

    asyncio.run(run())


def test_a_client_that_leaves_ends_the_wait_for_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No result comes of a question that is withdrawn: else the lot would wait until another one's."""

    async def test(teams: ServedTeams, writing: list[Reply]) -> None:
        ask(teams, "sequential")
        assert teams.num_waiting == 1
        writing[0].cancel(writing[0])
        assert teams.num_waiting == 0
        await teams.aclose()

    with_a_backlog(test, monkeypatch)


def test_what_waits_when_the_server_ends_starts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Call] = []

    async def test(teams: ServedTeams, writing: list[Reply]) -> None:
        waiting = ask(teams, "sequential")
        await asyncio.sleep(0)
        await teams.aclose()
        assert (len(started), teams.num_waiting, teams.num_lots) == (len(writing), 0, 0)
        with pytest.raises(RunError, match="gave the question up"):
            await waiting.answered()

    async def endless(call: Call) -> AsyncIterator[Result]:
        started.append(call)
        await asyncio.Event().wait()
        yield Failure(id="", agent="judger", error="it does not come here")

    monkeypatch.setattr(Fleet, "arun", lambda fleet, call: endless(call))
    with_a_backlog(test, monkeypatch)


def test_an_answer_whose_text_fails_ends_the_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def written(call: Call) -> AsyncIterator[Result]:
        """Answers that begin with their sixth token, and do not end."""
        assert call.request.observer is not None
        for question in call.questions:
            new = NewTokens(token_ids=(7,), first=5)
            call.request.observer.on_event(TextWritten(agent="judger", question_id=question.id, new=new))
        await asyncio.Event().wait()
        yield Failure(id="", agent="judger", error="it does not come here")

    async def test(teams: ServedTeams, writing: list[Reply]) -> None:
        ask(teams, "sequential")
        assert teams.num_waiting == 1
        for reply in writing:
            with pytest.raises(RunError, match="its text has begun otherwise"):
                await reply.answered()
        assert teams.num_waiting == 0
        await teams.aclose()

    monkeypatch.setattr(Fleet, "arun", lambda fleet, call: written(call))
    with_a_backlog(test, monkeypatch)
