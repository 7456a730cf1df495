"""The one exception tree. Every class survives pickling, because Ray ships exceptions between processes.

`InputError` and its children mean that something the user gave is wrong: one line, exit code 2.
`RunError` and its children mean that a run went wrong although its input was right: exit code 1.
`SegmentError` and its children mean that a piece of working memory is damaged or does not belong here.
"""

from typing import Any

MAX_VALUE_CHARS = 120


def first_line(error: BaseException) -> str:
    """What an error says in its first line that is not empty, or its class where it says nothing.

    Libraries put their stack or advice into the lines below.
    """
    return next((" ".join(line.split()) for line in str(error).splitlines() if line.strip()), type(error).__name__)


class LatentMASError(Exception):
    """Root of all errors that this package raises on purpose."""


class InputError(LatentMASError, ValueError):
    """A user's mistake: names the field, the value that was given and what would be right.

    `str(error)` is one line without a line break, whatever the value was.
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field = field
        self.value = value if isinstance(value, str) else repr(value)
        self.expected = expected
        super().__init__(field, self.value, expected)

    def __str__(self) -> str:
        value = self.value if len(self.value) <= MAX_VALUE_CHARS else self.value[:MAX_VALUE_CHARS] + "…"
        line = " ".join(f"{self.field}: got {value!r}; {self.expected}".split())
        # File names may hold control characters or bytes that no terminal can show.
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


class ConfigError(InputError):
    """A flag or a field of the run's configuration."""


class TopologyError(InputError):
    """A topology; `field` reads `FILE:LINE: agents.NAME.KEY`, without the file if it was made in Python.

    `path` is the same place by keys and indices, such as ("agents", 1, "reads"); empty where there is none.
    """

    def __init__(self, field: str, value: object, expected: str, *, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(field, value, expected)
        self.path = path


class TaskError(InputError):
    """A task name or a question file; `field` reads `FILE:LINE: KEY` for a bad record."""


class ModelError(InputError):
    """A model that cannot be found, loaded, or used for latent collaboration."""


class MemoryInputError(InputError):
    """Working memory, given as a file or as an object, that is damaged, of another version or of another model."""


class JournalError(InputError):
    """An output folder that does not fit the run."""


class SegmentError(LatentMASError, ValueError):
    """A segment of working memory that cannot be used."""


class WireError(SegmentError):
    """A payload that is truncated, altered, of another version, or not a segment at all."""


class IncompatibleMemoryError(SegmentError):
    """Memory of one model given to another."""


class RunError(LatentMASError, RuntimeError):
    """A run that failed although its input was right."""


class QuestionsFailedError(RunError):
    """Some questions of a call have no answer; `failures` (id, agent and error of each) says which, and why."""

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
    """The Ray cluster cannot be reached, or lacks what the run needs."""


class ActorError(RunError):
    """An actor died or could not start."""


class ShardError(RunError):
    """A replica of several ranks that cannot go on: one of them is gone, failed or did not keep up."""


class ContextLengthError(RunError):
    """Memory, prompt and thoughts do not fit into the positions that the model has."""


class CacheError(RunError):
    """A KV cache that this machine or GPU has no memory for."""


class TransferError(RunError):
    """Working memory that cannot be had: its actor is gone, or it did not come in time."""


class LinkError(TransferError):
    """The connection to a peer is of no use any more; a fresh one may be."""


class SandboxError(RunError):
    """A program that nobody has read, and that this machine cannot confine."""


class TurnError(RunError):
    """One agent's turn over one batch failed."""


class TurnLostError(RunError):
    """A turn was lost with its actor, or what it reads was: it can be carried out again.

    `lacks_memory`: its actor is there, a segment was not. `is_suspect`: it may be what its actor died of.
    """

    def __init__(self, reason: str, *, lacks_memory: bool = True, is_suspect: bool = True) -> None:
        super().__init__(reason)
        self.lacks_memory = lacks_memory
        self.is_suspect = is_suspect


class OldNameWarning(FutureWarning):
    """A flag, a keyword or a key was given under its old name, which this version still reads."""


class UntrainedQuestionWarning(UserWarning):
    """The embedded model is asked a question of a kind that it was not trained for."""
