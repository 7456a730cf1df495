"""The figures of one load, from the replies. Plain data: no network."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from latentmas_ray.bench.serve.reply import ClientReply


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Of times in seconds, by nearest rank: the smallest that p % of all do not exceed. 0 where there is none."""

    p50: float
    p95: float
    p99: float

    @staticmethod
    def of(values: Sequence[float]) -> "Percentiles":
        """Return the percentiles of these values."""
        ordered = sorted(values) or [0.0]
        p50, p95, p99 = (ordered[ceil(share * len(ordered)) - 1] for share in (0.50, 0.95, 0.99))
        return Percentiles(p50=p50, p95=p95, p99=p99)


@dataclass(frozen=True, kw_only=True)
class LoadFigures:
    """What one model's clients saw under one load."""

    model: str
    load: str  # "16 clients" or "2/s"
    concurrency: int | None  # of a closed loop
    rate: float | None  # of an open loop, per second
    num_requests: int
    num_answered: int
    errors: Mapping[str, int]  # by kind
    seconds: float  # from the first request to the last answer
    first_token: Percentiles  # of answered requests
    whole: Percentiles
    answered_per_second: float
    goodput: float  # answered in time, per second
    output_tokens_per_second: float
    output_tokens: float  # of a request
    latent_steps: float
    num_changed: int  # answers that are not those of this model under the first load
    cpu_seconds: float | None  # of the server's processes, per answered request; None where they cannot be seen


@dataclass(frozen=True, kw_only=True)
class InTime:
    """The times that an answer may take to count for goodput; None: as long as it likes."""

    first_token_seconds: float | None = None
    seconds: float | None = None

    def has(self, reply: ClientReply) -> bool:
        """Whether the reply is an answer in time."""
        limits = ((self.first_token_seconds, reply.first_token_seconds), (self.seconds, reply.seconds))
        return reply.is_answered and all(limit is None or taken <= limit for limit, taken in limits)


class FirstAnswers:
    """The answers under the first load, by model and question. Greedy answers depend on no load."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str], str] = {}

    def count_changed(self, replies: Sequence[ClientReply]) -> int:
        """Return how many answers are not the first one of their question, and keep those that are first."""
        return sum(
            self._texts.setdefault((reply.question.model, reply.question.key), reply.text) != reply.text
            for reply in replies
            if reply.is_answered
        )


def load_figures(
    replies: Sequence[ClientReply],
    *,
    model: str,
    load: str,
    in_time: InTime,
    num_changed: int,
    concurrency: int | None = None,
    rate: float | None = None,
    cpu_seconds: float | None = None,
) -> LoadFigures:
    """Return the figures of all replies of one load. `cpu_seconds` are those of the server in the whole load."""
    answered = [reply for reply in replies if reply.is_answered]
    begin = min((reply.due for reply in replies), default=0.0)
    seconds = max((reply.finished for reply in replies), default=0.0) - begin
    per_second = 1 / seconds if seconds > 0 else 0.0
    per_answer = 1 / len(answered) if answered else 0.0
    num_tokens = sum(reply.output_tokens for reply in answered)
    return LoadFigures(
        model=model,
        load=load,
        concurrency=concurrency,
        rate=rate,
        num_requests=len(replies),
        num_answered=len(answered),
        errors=dict(Counter(reply.outcome for reply in replies if not reply.is_answered).most_common()),
        seconds=seconds,
        first_token=Percentiles.of([reply.first_token_seconds for reply in answered]),
        whole=Percentiles.of([reply.seconds for reply in answered]),
        answered_per_second=len(answered) * per_second,
        goodput=sum(map(in_time.has, replies)) * per_second,
        output_tokens_per_second=num_tokens * per_second,
        output_tokens=num_tokens * per_answer,
        latent_steps=sum(reply.latent_steps for reply in answered) * per_answer,
        num_changed=num_changed,
        cpu_seconds=None if cpu_seconds is None else cpu_seconds * per_answer,
    )
