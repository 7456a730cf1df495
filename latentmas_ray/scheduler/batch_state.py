"""One batch on its way through the topology."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from latentmas_ray.engine.turn import GivenMemory, Handover, TurnRequest, TurnResult
from latentmas_ray.scheduler.events import TurnHandle
from latentmas_ray.scheduler.retry import RetryState
from latentmas_ray.scheduler.turns import DriverSettings, TopologyIndex, build_turn, segment_bounds
from latentmas_ray.topology.agent import Agent


class BatchState:
    """The state of one batch: which turns are submitted, which have reported, which tickets are still needed.

    A turn can be submitted when the turns whose segments it reads are *submitted* (the references are chained, so
    nobody waits for them here) and the turns whose texts stand in its prompt have *reported*. Under the guard `text`
    any turn may have text in its prompt, so it waits for the reports of all turns whose segments it reads.
    A ticket is held until its turn has reported and so have all that read its segment.
    """

    def __init__(
        self,
        retry: RetryState,
        route: TopologyIndex,
        settings: DriverSettings,
        handovers: Mapping[str, Handover] | None = None,
        *,
        given: GivenMemory | None = None,
        keeps_memory: bool = False,
    ) -> None:
        """Renders what can be rendered by now. `given` is what the answering agent reads in place of other agents'
        memory; with `keeps_memory` what the answering agent reads is reported as well. Raises TopologyError for a
        prompt that cannot be rendered.
        """
        self.retry = retry
        self.batch = retry.batch
        self.num_losses = 0  # how often one of its turns was what an actor died of, or could not have its memory
        self.gone: set[str] = set()  # agents whose turns are done and whose segments are lost
        self.tickets: dict[str, TurnHandle] = {}
        self.reports: dict[str, TurnResult] = {}
        self._route = route
        self._settings = settings
        self._handovers = handovers or {}
        self._given = given
        self._kept = frozenset(route.read_by_answering if keeps_memory else ())
        self._submitted: set[str] = set()
        works = {agent.name: self._build_turn(agent, {}) for agent in route.agents}
        self.bounds = {
            name: segment_bounds(work, len(self._may_write(name)) * settings.sampling.max_new_tokens)
            for name, work in works.items()
            if work.thinks == "latent"
        }
        self._works = {name: work for name, work in works.items() if not self._may_write(name)}

    @property
    def admitted_at(self) -> float | None:
        """On the driver's clock, of the first attempt."""
        return self.retry.admitted_at

    def admit(self, now: float) -> None:
        """The batch is on its way; what counts is when its questions were so first."""
        if self.retry.admitted_at is None:
            self.retry = replace(self.retry, admitted_at=now)

    @property
    def is_complete(self) -> bool:
        """All agents of the route have reported."""
        return len(self.reports) == len(self._route.agents)

    def next_work(self) -> TurnRequest | None:
        """The next turn that can be submitted now, in topological order."""
        for agent in self._route.agents:
            if agent.name in self._submitted or not self._is_ready(agent.name):
                continue
            if (work := self._works.pop(agent.name, None)) is not None:
                return work
            return self._build_turn(agent, {name: self.reports[name].texts for name in self._route.texts[agent.name]})
        return None

    def segments_for(self, work: TurnRequest) -> dict[str, Any]:
        """The (future) segments that `work` reads, in the order in which it expects them."""
        return {name: self.tickets[name].segment for name in work.segment_order()}

    def submitted(self, ticket: TurnHandle) -> None:
        """A turn is on its way."""
        self.tickets[ticket.agent] = ticket
        self._submitted.add(ticket.agent)

    def finished(self, report: TurnResult) -> list[TurnHandle]:
        """A turn has reported. Returns the tickets that were dropped because of it."""
        self.reports[report.agent] = report
        needless = [
            name for name in self.tickets if name in self.reports and self._route.readers[name] <= self.reports.keys()
        ]
        self.gone.difference_update(needless)
        return [self.tickets.pop(name) for name in needless]

    def depth(self, agent: str) -> int:
        """The place of an agent in topological order: a turn that fails may be why later ones do."""
        return next(index for index, one in enumerate(self._route.agents) if one.name == agent)

    def rewind(self, lost: Iterable[str]) -> tuple[list[TurnHandle], list[TurnHandle]]:
        """The turns of these agents are to be carried out again, and with them whatever that needs: turns that wait for
        what they write, and turns whose segments they read and that are not there any more.

        Returns the tickets that were dropped: of turns that have not reported, and of turns that have.
        """
        again = set(lost)
        while more := {name for name in self._submitted - again if self._must_follow(name, again)}:
            again |= more
        pending = [self.tickets[name] for name in self.tickets if name in again and name not in self.reports]
        reported = [self.tickets[name] for name in self.tickets if name in again and name in self.reports]
        for name in again:
            self.tickets.pop(name, None)
            self.reports.pop(name, None)
            self._submitted.discard(name)
        self.gone -= again
        for agent in self._route.agents:
            if agent.name in again and not self._may_write(agent.name):
                self._works[agent.name] = self._build_turn(agent, {})
        return pending, reported

    def _must_follow(self, name: str, again: Set[str]) -> bool:
        waits = name not in self.reports and not again.isdisjoint(self._route.sources[name])
        is_gone = name not in self.tickets and not again.isdisjoint(self._route.readers[name])
        return waits or is_gone

    def abandon(self) -> tuple[list[TurnHandle], list[TurnHandle]]:
        """Drop all tickets. Returns those of turns that have not reported, and those of turns that have."""
        pending = [ticket for name, ticket in self.tickets.items() if name not in self.reports]
        reported = [ticket for name, ticket in self.tickets.items() if name in self.reports]
        self.tickets.clear()
        self.gone.clear()
        return pending, reported

    def _build_turn(self, agent: Agent, texts: Mapping[str, Sequence[str]]) -> TurnRequest:
        sources = self._route.sources[agent.name]
        fallbacks = {name: self.reports[name].fallbacks for name in sources if name in self.reports}
        work = build_turn(
            self._route.topology,
            agent,
            self.batch,
            self._settings,
            texts,
            self._handovers,
            fallbacks,
            given=self._given,
        )
        return replace(work, keeps_memory=agent.name in self._kept)

    def _may_write(self, agent: str) -> tuple[str, ...]:
        """Those whose texts stand, or may come to stand, in an agent's prompt."""
        falls_back = self._settings.guard == "text"
        return self._route.texts[agent] + (self._route.sources[agent] if falls_back else ())

    def _is_ready(self, agent: str) -> bool:
        return self._submitted.issuperset(self._route.sources[agent]) and all(
            name in self.reports for name in self._may_write(agent)
        )
