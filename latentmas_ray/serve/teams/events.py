"""What each agent does with one question, as JSON records: a stream with `trace` has them, and the live page draws them.

A record has `agent`, `what` (waits, reads, thinks, hands_over, writes, repeats, thoughts) and what is known of:

| key | meaning |
| --- | --- |
| `running` | true: the agent does it now; without it the turn is over, and this is what it did |
| `seconds` | of the question's whole batch, or its own share where the agent writes every question for itself |
| `tokens` | of the prompt that was read, or of the text that was written |
| `latent_steps` | thoughts; with `of`, the most there can be |
| `bytes` | of memory; with `to` (its reader), `transport`, `link` and `exposed_seconds`: the part of `seconds` that no computation hid |
| `thoughts` | through the logit lens, if they were asked for: `engine.diagnostics.trace.Thought` |
"""  # noqa: E501  a row of a table is one line

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from latentmas_ray.engine.timing.progress import Step, TurnProgress
from latentmas_ray.engine.turn import SegmentRead, TurnResult
from latentmas_ray.runs.results import AgentUse, Answer, Transfer
from latentmas_ray.runs.run_events import RunEvent, TurnFinished, TurnRepeated
from latentmas_ray.scheduler.answers import split_bytes
from latentmas_ray.topology.agent import Topology

TurnRecord = dict[str, Any]
_WHAT: Mapping[Step, str] = {"prompt": "reads", "latent step": "thinks", "token": "writes"}


class QuestionEvents:
    """The records of one question, from the events of the run that answers it. Not thread-safe."""

    def __init__(self, question_id: str, topology: Topology, *, lens: bool = False) -> None:
        """`lens`: with the thoughts of a traced question."""
        self._id = question_id
        self._agents = [agent.name for agent in topology.agents]
        self._lens = lens
        self._results: dict[str, TurnResult] = {}  # of turns that are over
        self._last: dict[str, TurnRecord] = {}  # by agent: the last record of its running turn

    def queued(self) -> list[TurnRecord]:
        """Return the records of a question that no agent works on yet."""
        return [{"agent": name, "what": "waits", "running": True} for name in self._agents]

    def running(self, turns: Iterable[TurnProgress]) -> list[TurnRecord]:
        """Return what has changed, by how far the turns are that run now."""
        records = []
        for turn in turns:
            if self._id not in turn.question_ids or turn.agent in self._results or turn.agent not in self._agents:
                continue
            record: TurnRecord = {"agent": turn.agent, "what": _WHAT[turn.step], "running": True}
            if turn.step == "latent step":
                record |= {"latent_steps": turn.num_done, "of": turn.num_total}
            elif turn.step == "token" and len(turn.question_ids) == 1:  # else it is about the longest text of several
                record |= {"tokens": turn.num_done, "of": turn.num_total}
            if record != self._last.get(turn.agent):
                self._last[turn.agent] = record
                records.append(record)
        return records

    def observe(self, event: RunEvent) -> list[TurnRecord]:
        """Return the records of one event of the run; none for an event that is not about this question."""
        match event:
            case TurnFinished(report=result, question_ids=ids) if self._id in ids:
                return self._finish(result, ids.index(self._id), len(ids))
            case TurnRepeated(agent=agent, question_ids=ids) if self._id in ids:
                self._results.pop(agent, None)
                self._last.pop(agent, None)
                return [{"agent": agent, "what": "repeats"}]
            case _:
                return []

    def answered(self, answer: Answer) -> list[TurnRecord]:
        """Return the records of agents whose turn lasts longer than this question: they still write others."""
        records = []
        for name, use in answer.agents.items():
            if name in self._results:
                continue
            records += [_handed_over(one) for one in answer.transfers if one.reader == name]
            records += _did(name, use.seconds, use)
        return records

    def _finish(self, result: TurnResult, index: int, num_questions: int) -> list[TurnRecord]:
        name = result.agent
        self._results[name] = result
        own = result.question_phases[index] if result.question_phases else result.phases
        use = AgentUse(
            prompt_tokens=result.prompt_tokens[index],
            latent_steps=result.steps_of(index),
            output_tokens=result.num_written(index),
            memory_bytes=result.segment_bytes[index] if result.segment_bytes else 0,
            seconds=vars(own),
        )
        transfers = [self._transfer(name, read, index, num_questions) for read in result.reads]
        records = [*map(_handed_over, transfers), *_did(name, use.seconds, use)]
        if self._lens and (trace := result.traces.get(self._id)) is not None and trace.thoughts:
            records.append({"agent": name, "what": "thoughts", "thoughts": [asdict(one) for one in trace.thoughts]})
        return records

    def _transfer(self, reader: str, read: SegmentRead, index: int, num_questions: int) -> Transfer:
        """Return this question's share of a segment, in proportion to its source's bytes."""
        source = self._results.get(read.source)
        weights = source.segment_bytes if source is not None and source.segment_bytes else (0,) * num_questions
        return Transfer(
            source=read.source,
            reader=reader,
            num_bytes=split_bytes(read.num_bytes, weights)[index],
            transport=read.transport,
            seconds=read.seconds,
            exposed_seconds=read.exposed_seconds,
            link=read.link,
        )


def _handed_over(transfer: Transfer) -> TurnRecord:
    return {
        "agent": transfer.source,
        "what": "hands_over",
        "to": transfer.reader,
        "bytes": transfer.num_bytes,
        "transport": transfer.transport,
        "link": transfer.link,
        "seconds": transfer.seconds,
        "exposed_seconds": transfer.exposed_seconds,
    }


def _did(name: str, seconds: Mapping[str, float], use: AgentUse) -> list[TurnRecord]:
    """Return what an agent did in a turn that is over, in the order in which it did it."""

    def record(what: str, *phases: str, **figures: int) -> TurnRecord:
        return {"agent": name, "what": what, "seconds": sum(seconds.get(one, 0.0) for one in phases), **figures}

    records = [record("waits", "wait")] if seconds.get("wait") else []
    records.append(record("reads", "absorb", "prefill", tokens=use.prompt_tokens))
    if use.latent_steps:
        records.append(record("thinks", "think", latent_steps=use.latent_steps))
    if use.memory_bytes:
        records.append(record("hands_over", "emit", bytes=use.memory_bytes))
    if use.output_tokens or seconds.get("decode"):
        records.append(record("writes", "decode", tokens=use.output_tokens))
    return records
