"""`ServedTeams`: the models that an endpoint serves, on the actors of one fleet."""

import asyncio
import secrets
from contextlib import aclosing, suppress
from dataclasses import replace

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import LatentMASError, QuestionsFailedError, RunError
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import RunEvent, TurnFinished
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.serve.teams.batcher import Batcher, Lot, Stages
from latentmas_ray.serve.teams.reply import FinishedChoice, FinishReason, Reply, TeamAnswer, TextDelta
from latentmas_ray.serve.teams.settings import OWNER, TeamRequest, stream_name
from latentmas_ray.system.serving import Fleet, ServedModel
from latentmas_ray.tasks.question import Question


class ServedTeams:
    """Answers requests. All methods but the constructor are called in one event loop."""

    def __init__(self, config: RunConfig, topologies: tuple[str, ...] = ()) -> None:
        """Check the configuration; `topologies` are served besides its own. Raises InputError kinds."""
        self.fleet = Fleet(config, topologies)
        self.models: dict[str, ServedModel] = {f"{OWNER}/{name}": one for name, one in self.fleet.models.items()}
        self._info: RuntimeInfo | None = None
        self._stages: dict[str, Stages] = {}
        self._batcher = Batcher(self._stages_of, self._start_lot, config.batch_size)
        self._tasks: dict[Lot, asyncio.Task[None]] = {}
        self._lot_of: dict[Reply, Lot] = {}

    @property
    def is_ready(self) -> bool:
        """Whether the models are loaded."""
        return self._info is not None

    @property
    def num_waiting(self) -> int:
        """Questions that wait for thinking agents."""
        return self._batcher.num_waiting

    @property
    def num_running(self) -> int:
        """Questions that agents work on."""
        return len(self._lot_of)

    async def start(self) -> RuntimeInfo:
        """Start the actors and load the models. Raises the errors of `Runtime.start`."""
        self._info = await asyncio.to_thread(self.fleet.start)
        return self._info

    async def aclose(self) -> None:
        """Cancel all questions and shut down the actors."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self.fleet.close)
        self._info = None

    def ask(self, request: TeamRequest) -> Reply:
        """Queue a question and return its reply. Raises KeyError for an unknown model, InputError kinds for settings
        that it cannot do, RunError before `start`."""
        if self._info is None:
            raise RunError("the models are not loaded yet")
        model = self.models[request.model]
        temperature = request.settings.temperature
        temperature = model.config.temperature if temperature is None else temperature
        name = stream_name(request.settings, temperature) or secrets.token_hex(8)
        reply = Reply(request, replace(request.question, id=name), self.cancel)
        self.fleet.call(model, request.settings, [reply.question])  # what is wrong is said before it waits
        self._batcher.add(reply)
        return reply

    def cancel(self, reply: Reply) -> None:
        """End a question whose client has left. Safe to call twice, and after its end."""
        reply.is_over = True
        if self._batcher.remove(reply) or (lot := self._lot_of.get(reply)) is None:
            return
        if all(one.is_over for one in lot.replies):
            self._tasks[lot].cancel()

    def _stages_of(self, reply: Reply) -> Stages:
        name = reply.request.model
        if name not in self._stages:
            assert self._info is not None
            model = self.models[name]
            agents = [one for one in model.topology.agents if one.name not in self._info.writes_at_once]
            self._stages[name] = Stages(
                roots=frozenset(one.name for one in agents if not one.reads),
                thinkers=frozenset(one.name for one in agents),
                replicas=model.config.most_replicas,
            )
        return self._stages[name]

    def _start_lot(self, lot: Lot) -> None:
        for reply in lot.replies:
            self._lot_of[reply] = lot
        self._tasks[lot] = asyncio.create_task(self._run(lot))

    async def _run(self, lot: Lot) -> None:
        """Run a lot and send its results to its replies."""
        first = lot.replies[0].request
        by_id = {reply.question.id: reply for reply in lot.replies}
        try:
            observer = _LotObserver(self._batcher, lot)
            questions = [reply.question for reply in lot.replies]
            call = self.fleet.call(self.models[first.model], first.settings, questions, observer)
            async with aclosing(self.fleet.arun(call)) as results:
                async for result in results:
                    reply = by_id[result.id]
                    if isinstance(result, Answer):
                        _send_answer(reply, result)
                    elif isinstance(result, Failure):
                        reply.fail(QuestionsFailedError((result,), 1))
                    self._lot_of.pop(reply, None)
            _fail_all(lot, RunError("the run ended without an answer"))
        except asyncio.CancelledError:
            _fail_all(lot, RunError("it was cancelled"))
            raise
        except LatentMASError as error:
            _fail_all(lot, error)
        except Exception as error:  # noqa: BLE001  a bug of ours must not leave clients waiting
            failure = RunError(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            _fail_all(lot, failure)
        finally:
            for reply in lot.replies:
                self._lot_of.pop(reply, None)
            self._tasks.pop(lot, None)
            self._batcher.finish(lot)


class _LotObserver:
    """Passes the events of a lot's run, which come in the scheduler's thread, to the event loop."""

    def __init__(self, batcher: Batcher, lot: Lot) -> None:
        self._batcher, self._lot = batcher, lot
        self._loop = asyncio.get_running_loop()

    def on_event(self, event: RunEvent) -> None:
        if isinstance(event, TurnFinished):
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._batcher.note, self._lot, event)


def _fail_all(lot: Lot, error: BaseException) -> None:
    for reply in lot.replies:
        reply.fail(error)


def _send_answer(reply: Reply, answer: Answer) -> None:
    choices = _choices(answer)
    if reply.request.streams:
        for index, choice in enumerate(choices):
            reply.send(TextDelta(choice=index, text=choice.text))
    reply.send(TeamAnswer(choices=choices, answer=answer))


def _choices(answer: Answer) -> tuple[FinishedChoice, ...]:
    texts = [(vote.answer, vote.cut_off, vote.answer_token_ids) for vote in answer.votes]
    if not texts:
        cut_off = [use.cut_off for use in answer.agents.values() if use.text is None and use.cut_off is not None]
        texts = [(answer.answer, cut_off[-1] if cut_off else "no", answer.answer_token_ids)]
    return tuple(
        FinishedChoice(text=text, finish_reason=_reason(cut_off), num_tokens=len(ids)) for text, cut_off, ids in texts
    )


def _reason(cut_off: str) -> FinishReason:
    return "stop" if cut_off == "no" else "length"


def question_of(text: str) -> Question:
    """Return a plain question, as `latentmas ask` makes one."""
    return Question(id="q0", question=text, kind="text", gold=None, record={"question": text})
