"""Costs of agents and transfers, computed from the answers of a run: means over the questions.

`x_seconds` is the time of the question's whole batch. `x_seconds_per_question` is that time divided by the number of
questions in the batch: only these can be added up, and their sum over all questions is the time that the agent spent
on x. Rows without a batch size do not count for them. An agent that writes every question for itself reports each
question's own share of its steps: that is the time per question, and the sum over the batch the time of the batch.
"""

from collections.abc import Iterable, Mapping, Sequence

from latentmas_ray.engine.diagnostics.convergence import ConvergenceStats, ThoughtConvergence
from latentmas_ray.runs.results import AgentUse, Answer, Transfer, TransferStats, mean_or_zero

PER_QUESTION = "_per_question"
_IDLE = frozenset({"wait", "trace"})  # waiting for memory and tracing do not count as busy


def agent_stats(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Return, by agent: tokens, bytes handed over and read, and seconds of its phases (wait, absorb, …), of the
    transfers that it read (part of its phases) and busy (all phases but wait)."""
    names = dict.fromkeys(name for answer in answers for name in answer.agents)
    return {name: _agent(name, [answer for answer in answers if name in answer.agents]) for name in names}


def convergence_stats(answers: Sequence[Answer]) -> dict[str, ConvergenceStats]:
    """Return how the thoughts converged, by agent that had any."""
    found: dict[str, list[ThoughtConvergence]] = {}
    for answer in answers:
        for name, use in answer.agents.items():
            if use.convergence is not None and use.latent_steps:
                found.setdefault(name, []).append(use.convergence)
    return {name: ConvergenceStats.of(of) for name, of in found.items()}


def transfer_stats(answers: Sequence[Answer]) -> tuple[TransferStats, ...]:
    """Return the costs by source and reader, in the order of their first transfer."""
    pairs = dict.fromkeys((transfer.source, transfer.reader) for answer in answers for transfer in answer.transfers)
    return tuple(_transfer(*pair, answers) for pair in pairs)


def _agent(name: str, answers: Sequence[Answer]) -> dict[str, float]:
    uses = [answer.agents[name] for answer in answers]
    reads = [[transfer for transfer in answer.transfers if transfer.reader == name] for answer in answers]
    sized = list(zip(uses, (answer.batch_size for answer in answers), strict=True))
    phases = dict.fromkeys(phase for use in uses for phase in use.seconds)
    # An own share times the size of the batch: the mean over its questions is the time of the whole batch.
    seconds = {phase: [_of_batch(use, size, (phase,)) for use, size in sized] for phase in phases}
    seconds |= _transfer_seconds(reads)
    working = [phase for phase in phases if phase not in _IDLE]
    busy = [_of_batch(use, size, working) for use, size in sized]
    return {
        "prompt_tokens": mean_or_zero([use.prompt_tokens for use in uses]),
        "latent_steps": mean_or_zero([use.latent_steps for use in uses]),
        "output_tokens": mean_or_zero([use.output_tokens for use in uses]),
        "memory_bytes": mean_or_zero([use.memory_bytes for use in uses]),
        "read_bytes": mean_or_zero([sum(read.num_bytes for read in each) for each in reads]),
        "moved_bytes": mean_or_zero([sum(read.moved_bytes for read in each) for each in reads]),
        **{f"{what}_seconds": mean_or_zero(taken) for what, taken in seconds.items()},
        **_per_question({**seconds, "busy": busy}, answers),
    }


def _of_batch(use: AgentUse, batch_size: int | None, phases: Iterable[str]) -> float:
    """Return the seconds of these phases, of the question's whole batch."""
    seconds = sum(use.seconds.get(phase, 0.0) for phase in phases)
    return seconds * (batch_size or 1) if use.has_own_seconds else seconds


def _transfer(source: str, reader: str, answers: Sequence[Answer]) -> TransferStats:
    answers = [answer for answer in answers if any(_is_of(transfer, source, reader) for transfer in answer.transfers)]
    reads = [[transfer for transfer in answer.transfers if _is_of(transfer, source, reader)] for answer in answers]
    every = [read for each in reads for read in each]
    seconds = _transfer_seconds(reads)
    return TransferStats(
        source=source,
        reader=reader,
        transports=tuple(dict.fromkeys(read.transport for read in every)),
        links=tuple(dict.fromkeys(read.link for read in every)),
        num_bytes=mean_or_zero([sum(read.num_bytes for read in each) for each in reads]),
        moved_bytes=mean_or_zero([sum(read.moved_bytes for read in each) for each in reads]),
        **{f"{what}_seconds": mean_or_zero(taken) for what, taken in seconds.items()},
        **_per_question(seconds, answers),
    )


def _is_of(transfer: Transfer, source: str, reader: str) -> bool:
    return (transfer.source, transfer.reader) == (source, reader)


def _transfer_seconds(reads: Iterable[Sequence[Transfer]]) -> dict[str, list[float]]:
    """Return, for each question's batch, the seconds of these transfers and their exposed seconds."""
    every = list(reads)
    return {
        "transfer": [sum(read.seconds for read in each) for each in every],
        "exposed": [sum(read.exposed_seconds for read in each) for each in every],
    }


def _per_question(seconds: Mapping[str, Sequence[float]], answers: Sequence[Answer]) -> dict[str, float]:
    """Return the mean seconds per question; empty if no row has a batch size."""
    sizes = [answer.batch_size for answer in answers]
    if not any(sizes):
        return {}
    return {
        f"{what}_seconds{PER_QUESTION}": mean_or_zero(
            [value / size for value, size in zip(taken, sizes, strict=True) if size]
        )
        for what, taken in seconds.items()
    }


def busy_seconds(answer: Answer) -> dict[str, float]:
    """Return the seconds of a replica that each agent used for one question: all phases but waiting, and of a batch
    its part."""
    size = answer.batch_size or 1
    return {
        agent: sum(seconds for phase, seconds in use.seconds.items() if phase not in _IDLE)
        / (1 if use.has_own_seconds else size)
        for agent, use in answer.agents.items()
    }
