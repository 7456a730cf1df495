"""The package's exceptions. All can be pickled, because Ray sends them between processes.

`InputError` and its subclasses: the user's input is wrong. One line, exit code 2.
`RunError` and its subclasses: a run failed although its input was right. Exit code 1.
`SegmentError` and its subclasses: a segment of working memory is damaged, or belongs to another model or version.
"""

import re
from collections.abc import Mapping
from typing import Any

MAX_VALUE_CHARS = 120
_HIDDEN = "***"
_PASSWORDS = (
    re.compile(r"(://[^\s/?#:@'\"]*:)\S*(?=@)"),  # user:password@; a password may hold any character
    re.compile(r"(https?://)[^\s/?#:@'\"]+(?=@)"),  # a token in place of the user
    re.compile(
        r"([?&;](?:[\w.-]*(?:token|sig|signature|secret|passw(?:or)?d|pwd|key|credentials?|auth))=)[^&;#\s'\"]+", re.I
    ),
)


# How users of other projects ask for pipeline parallelism, in fields, keys and flags; and the reason for the refusal.
PIPELINE_FIELDS = (
    "pp",
    "pp_size",
    "pipeline_parallel",
    "pipeline_parallel_size",
    "pipeline_model_parallel_size",
    "num_pipeline_stages",
)
NO_PIPELINE = (
    "a model is not divided into pipeline stages, since a latent step is one token and all stages but one would wait; "
    "leave it out and divide each layer over the GPUs of a node with tp (2, 4, 8, …), "
    "or put agents on several nodes with placement spread"
)


def hide_passwords(text: str) -> str:
    """Return `text` with *** in place of the passwords and tokens of the URLs in it."""
    for pattern in _PASSWORDS if "://" in text else ():
        text = pattern.sub(rf"\1{_HIDDEN}", text)
    return text


def hide_password(url: str) -> str:
    """Return one URL with *** in place of its password, whatever it holds, and of all values of its query. What is no
    URL is returned as it is."""
    if "://" not in url:
        return url
    start, secret = _password(url)
    shown = f"{url[:start]}{_HIDDEN}{url[start + len(secret) :]}" if secret else url
    return hide_passwords(re.sub(r"([?&][^=&#]*=)[^&#]+", rf"\1{_HIDDEN}", shown))


def password_of(url: str) -> str:
    """Return the password of a URL as it is written there; empty if it has none."""
    return _password(url)[1]


def _password(url: str) -> tuple[int, str]:
    """Return where the password begins, and the password: it may hold `/` and `@`, so it ends at the last `@`."""
    before = url.rpartition("@")[0]
    user = re.match(r".*?://[^/?#:@]*:", before, re.DOTALL)
    return (0, "") if user is None else (user.end(), before[user.end() :])


def first_line(error: BaseException) -> str:
    """What an error says in its first line that is not empty, or its class where it says nothing.

    Libraries put their stack or advice into the lines below.
    """
    return next((" ".join(line.split()) for line in str(error).splitlines() if line.strip()), type(error).__name__)


class LatentMASError(Exception):
    """Base class of all errors that this package raises deliberately."""


class InputError(LatentMASError, ValueError):
    """A mistake in the user's input: the field, the value that was given, and what would be right.

    `str(error)` is always one printable line, whatever the value, without the password of a URL.
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field = field
        self.value = hide_passwords(value if isinstance(value, str) else _repr(value))
        self.expected = hide_passwords(expected)
        super().__init__(field, self.value, self.expected)

    def __str__(self) -> str:
        value = self.value if len(self.value) <= MAX_VALUE_CHARS else self.value[:MAX_VALUE_CHARS] + "…"
        line = " ".join(f"{self.field}: got {value!r}; {self.expected}".split())
        # File names may hold control characters or bytes that no terminal can show.
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except RecursionError:
        return "a value that is nested too deeply"


class ConfigError(InputError):
    """A flag or configuration field has an invalid value."""


class TopologyError(InputError):
    """A topology is invalid. `field` is `FILE:LINE: agents.NAME.KEY`, or `agents.NAME.KEY` for one made in Python.

    `path` is the same place as keys and indices, such as ("agents", 1, "reads"); empty if there is none.
    """

    def __init__(self, field: str, value: object, expected: str, *, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(field, value, expected)
        self.path = path


class TaskError(InputError):
    """A task name or a question file is invalid. `field` is `FILE:LINE: KEY` for a bad record."""


class ModelError(InputError):
    """A model cannot be found, loaded, or used for latent collaboration."""


class MemoryInputError(InputError):
    """Working memory that the user passed (a file or an object) is damaged, or from another version or model."""


class JournalError(InputError):
    """The output folder does not match the run."""


class SegmentError(LatentMASError, ValueError):
    """A segment of working memory cannot be used."""


class WireError(SegmentError):
    """A payload is truncated, corrupt, of another version, or not a segment."""


class IncompatibleMemoryError(SegmentError):
    """Memory of one model was passed to another."""


class RunError(LatentMASError, RuntimeError):
    """A run failed although its input was right."""


class QuestionsFailedError(RunError):
    """Some questions of a call have no answer. `failures` lists them: id, agent and error of each."""

    def __init__(self, failures: tuple[Any, ...], num_questions: int) -> None:
        self.failures = failures
        self.num_questions = num_questions
        super().__init__(self.failures, num_questions)

    def __str__(self) -> str:
        first = self.failures[0]
        return (
            f"{len(self.failures)} of {self.num_questions} questions have no answer; question {first.id}: "
            f"agent {first.agent}: {first.error}"
        )


class ClusterError(RunError):
    """The Ray cluster cannot be reached, or lacks resources that the run needs."""


class ActorError(RunError):
    """An actor died or could not start."""


class LostActorError(ActorError):
    """An actor died, and nothing of this program says why: it may live elsewhere, or when it is started again."""


class ShardError(RunError):
    """A tensor-parallel replica cannot continue: one of its ranks died, failed or timed out."""


class ContextLengthError(RunError):
    """Memory, prompt and thoughts together are longer than the model's context."""


class CacheError(RunError):
    """There is not enough memory for a KV cache on this machine or GPU."""


class TransferError(RunError):
    """Working memory could not be fetched: its actor died, or it did not arrive in time."""


class LinkError(TransferError):
    """The connection to a peer is of no use any more; a fresh one may be."""


class SandboxError(RunError):
    """This machine cannot confine an untrusted program, so it is not run."""


class TurnError(RunError):
    """One agent's turn over one batch failed."""


class QuestionsTooLongError(TurnError, ContextLengthError):
    """Some questions of a turn need more positions than the model has, which was known before its first step.

    `reasons` has one line for each of them, by id. The other questions of the turn can be asked without them.
    """

    def __init__(self, agent: str, reasons: Mapping[str, str]) -> None:
        self.agent = agent
        self.reasons = dict(reasons)
        super().__init__(agent, self.reasons)

    def __str__(self) -> str:
        return next(iter(self.reasons.values()))


class TurnLostError(RunError):
    """A turn was lost because its actor died or a segment it reads is gone. It can be executed again.

    `lacks_memory`: the actor is alive, but a segment was missing. `is_suspect`: the turn may have killed its actor.
    """

    def __init__(self, reason: str, *, lacks_memory: bool = True, is_suspect: bool = True) -> None:
        super().__init__(reason)
        self.lacks_memory = lacks_memory
        self.is_suspect = is_suspect


class OldNameWarning(FutureWarning):
    """A flag, a keyword or a key was given under its old name, which this version still reads."""


class UnusedSettingWarning(UserWarning):
    """A setting that was given does nothing in this run: its field and value, the field and value that decide it, and
    why. `cause_value` is None where the cause is no field of the run."""

    def __init__(self, field: str, value: Any, cause: str, cause_value: Any, why: str) -> None:
        self.field, self.value = field, value
        self.cause, self.cause_value = cause, cause_value
        self.why = why
        super().__init__(field, value, cause, cause_value, why)

    def __str__(self) -> str:
        cause = self.cause if self.cause_value is None else f"{self.cause}={self.cause_value}"
        return f"{self.field}={self.value} does nothing with {cause}: {self.why}"


class ThoughtsAloneWarning(UserWarning):
    """Agents hand over their thoughts and nothing else, as few as by default."""

    def __init__(self, agents: tuple[str, ...], latent_steps: int | str) -> None:
        self.agents, self.latent_steps = agents, latent_steps
        super().__init__(agents, latent_steps)

    def __str__(self) -> str:
        who = f"agent {self.agents[0]} hands" if len(self.agents) == 1 else f"agents {', '.join(self.agents)} hand"
        return (
            f"{who} over thoughts alone, {self.latent_steps} each by default (latent_steps); docs/thoughts.md says how "
            "many have carried anything"
        )


class UntrainedQuestionWarning(UserWarning):
    """The embedded model is asked a question that it was not trained for."""
