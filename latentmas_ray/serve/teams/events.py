"""What the agents do with one question, as JSON records: the facts of a run's events, in the order in which they are
known.

Each record has `agent` and `what`: waits, reads, thinks, hands_over or writes. With `running` it has begun; without,
it is over and has `seconds`. `reads` and `writes` have `tokens`, `thinks` has `latent_steps`; `hands_over` has `to`,
`bytes`, `transport`, `seconds` and `exposed_seconds`, and comes when the reader has read.
"""

from collections.abc import Iterator, Set
from dataclasses import asdict
from typing import Any

from latentmas_ray.engine.diagnostics.trace import AgentTrace
from latentmas_ray.engine.turn import NewTokens, TurnResult
from latentmas_ray.runs.results import AgentUse, Answer
from latentmas_ray.runs.run_events import TurnFinished, TurnRepeated
from latentmas_ray.scheduler.answers import split_bytes
from latentmas_ray.topology import Topology

Record = dict[str, Any]


class QuestionRecords:
    """Makes the records of one question."""

    def __init__(self, topology: Topology, question_id: str, max_new_tokens: int | None, *, lens: bool = False) -> None:
        """`lens`: with the thoughts of a traced question, as `engine.diagnostics.trace.Thought` has them."""
        self._topology, self._id, self._most, self._lens = topology, question_id, max_new_tokens, lens
        self._finished: set[str] = set()
        self._writers = {agent.name for agent in topology.agents if agent.thinks == "text"}
        self._bytes: dict[str, tuple[int, ...]] = {}  # of each question of the batch, by source
        self._began: set[str] = set()
        self._writing: set[str] = set()

    @property
    def finished(self) -> Set[str]:
        """The agents whose turn is over."""
        return self._finished

    def start(self) -> Iterator[Record]:
        """The question was given to the agents."""
        for agent in self._topology.agents:
            yield {"agent": agent.name, "what": "waits", "running": True}
        yield from self._begin()

    def write(self, agent: str, new: NewTokens) -> Iterator[Record]:
        """An agent has written tokens; only the first ones make a record, since the text follows."""
        if agent not in self._writing:
            self._writing.add(agent)
            most = {} if self._most is None else {"of": self._most}
            yield {"agent": agent, "what": "writes", "running": True, "tokens": new.first + len(new.token_ids), **most}

    def finish_turn(self, event: TurnFinished) -> Iterator[Record]:
        """An agent has finished its turn over the question's batch."""
        result = event.report
        if result.agent in self._finished or self._id not in event.question_ids:
            return
        index, count = event.question_ids.index(self._id), len(event.question_ids)
        self._finished.add(result.agent)
        self._bytes[result.agent] = result.segment_bytes
        for read in result.reads:
            weights = self._bytes.get(read.source) or (0,) * count
            own = split_bytes(read.num_bytes, weights)[index]
            yield _hand_over(read.source, result.agent, own, read.transport, read.seconds, read.exposed_seconds)
        yield from _turn(result, index)
        yield from self._thoughts(result.agent, result.traces.get(self._id))
        yield from self._begin()

    def repeat(self, event: TurnRepeated) -> Iterator[Record]:
        """An agent's turn was lost and starts again. The reason is not told: it may name a machine."""
        if self._id in event.question_ids:
            for names in (self._finished, self._writing):
                names.discard(event.agent)
            self._began.add(event.agent)
            yield {"agent": event.agent, "what": "repeats"}

    def finish(self, answer: Answer) -> Iterator[Record]:
        """The question has its answer: what is not known of its agents yet."""
        for name, use in answer.agents.items():
            if name in self._finished:
                continue
            self._finished.add(name)
            for one in answer.transfers:
                if one.reader == name:
                    yield _hand_over(one.source, name, one.num_bytes, one.transport, one.seconds, one.exposed_seconds)
            yield from _use(name, use, writes=name in self._writers)
            yield from self._thoughts(name, answer.trace.agents.get(name) if answer.trace is not None else None)

    def _thoughts(self, agent: str, trace: AgentTrace | None) -> Iterator[Record]:
        if self._lens and trace is not None and trace.thoughts:
            yield {"agent": agent, "what": "thoughts", "thoughts": [asdict(thought) for thought in trace.thoughts]}

    def _begin(self) -> Iterator[Record]:
        """The agents whose sources have all finished, and that had not begun."""
        for agent in self._topology.agents:
            if agent.name not in self._began and self._finished.issuperset(agent.reads):
                self._began.add(agent.name)
                yield {"agent": agent.name, "what": "reads", "running": True}


def _turn(result: TurnResult, index: int) -> Iterator[Record]:
    phases = result.question_phases[index] if result.question_phases else result.phases
    yield {"agent": result.agent, "what": "waits", "seconds": phases.wait}
    seconds = phases.absorb + phases.prefill
    yield {"agent": result.agent, "what": "reads", "seconds": seconds, "tokens": result.prompt_tokens[index]}
    if result.convergence or not result.output_token_ids:
        steps = result.steps_of(index)
        yield {"agent": result.agent, "what": "thinks", "seconds": phases.think, "latent_steps": steps}
    if result.output_token_ids:
        tokens = result.num_written(index)
        yield {"agent": result.agent, "what": "writes", "seconds": phases.decode, "tokens": tokens}


def _use(agent: str, use: AgentUse, *, writes: bool) -> Iterator[Record]:
    seconds = use.seconds
    yield {"agent": agent, "what": "waits", "seconds": seconds.get("wait", 0.0)}
    reading = seconds.get("absorb", 0.0) + seconds.get("prefill", 0.0)
    yield {"agent": agent, "what": "reads", "seconds": reading, "tokens": use.prompt_tokens}
    if use.latent_steps:
        yield {
            "agent": agent,
            "what": "thinks",
            "seconds": seconds.get("think", 0.0),
            "latent_steps": use.latent_steps,
        }
    if use.output_tokens or writes:
        yield {"agent": agent, "what": "writes", "seconds": seconds.get("decode", 0.0), "tokens": use.output_tokens}


def _hand_over(source: str, reader: str, num_bytes: int, transport: str, seconds: float, exposed: float) -> Record:
    return {
        "agent": source,
        "what": "hands_over",
        "to": reader,
        "bytes": num_bytes,
        "transport": transport,
        "seconds": seconds,
        "exposed_seconds": exposed,
    }
