"""Errors of the API in OpenAI's form, and the status of every error of the package.

A client's mistake is 400 (404 for an unknown model or path, 413 for a body that is too large) and names the field. What
the server cannot do now is 429 or 503, with `Retry-After`. 500 is a mistake of ours, and says nothing of its inside.
"""

import asyncio
import math
import re
from typing import Any, Final

from latentmas_ray.errors import (
    ActorError,
    CacheError,
    ClusterError,
    ConfigError,
    ContextLengthError,
    InputError,
    JournalError,
    LatentMASError,
    ModelError,
    QuestionsTooLongError,
    ShardError,
    TaskError,
    TransferError,
    TurnLostError,
)

TOO_LONG: Final = "context_length_exceeded"
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
# What another try may answer: processes and links that are lost and replaced, and memory that others hold.
_PASSING: Final = (ActorError, CacheError, ClusterError, ShardError, TransferError, TurnLostError)
_RETRY_SECONDS: Final = 1.0
_IN_LOG: Final = "the server's log has the reason under this X-Request-Id"
_SHOWN_CHARS: Final = 200
_LOGGED_CHARS: Final = 500
# A path from the root or from a home, in words or in quotes.
_PATH: Final = re.compile(r"(?<![\w.:/~-])~?/(?:[^/\s'\",;]+/)*([^/\s'\",;]*)")
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"")
# Fields of a run, and the fields of a request that set them, under other names.
_PARAMS: Final = {
    "max_new_tokens": "max_tokens",
    "samples": "n",
    "latent_steps": "latentmas.latent_steps",
}
# All of them; "memory" is also a word of messages, where it stays.
_ALL_PARAMS: Final = {
    **_PARAMS,
    "memory": "latentmas.memory",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
}


class ApiError(LatentMASError):
    """A request that is refused or has failed: its HTTP status, and what the client reads.

    `message` is one line; `param` names the field of the request, such as `messages[0].content`; `code` is a short name
    for programs; `retry_after` are the seconds after which another try is worth it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        *,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, message, param, code)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.status, self.message, self.param, self.code, self.retry_after)

    def about(self, texts: str) -> "ApiError":
        """Return this error with `texts` for the field that has the texts of a request, which is `messages` of chats
        alone."""
        if self.param != "messages":
            return self
        return ApiError(self.status, self.message, texts, self.code, retry_after=self.retry_after)

    @property
    def type(self) -> str:
        """OpenAI's kind of error."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        return _TYPES.get(self.status, default)

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The response's JSON."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers."""
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def _restored(status: int, message: str, param: str | None, code: str | None, retry_after: float | None) -> ApiError:
    return ApiError(status, message, param, code, retry_after=retry_after)


def bad_field(param: str | None, value: object, expected: str, code: str = "invalid_value") -> ApiError:
    """Return a 400 in the form of the package's other messages: the field, the value, and what would be right."""
    return ApiError(400, str(InputError(param or "request", value, expected)), param, code)


def unknown_model(model: str, known: list[str]) -> ApiError:
    """Return the 404 of a model that is not served."""
    line = str(InputError("model", model, f"it must be one of {', '.join(known)}"))
    return ApiError(404, line, "model", "model_not_found")


def aborted() -> ApiError:
    """Return the 503 of a question that the server gave up, because it shuts down or its run has failed."""
    return ApiError(503, "the server gave this question up; send it again", code="aborted", retry_after=_RETRY_SECONDS)


def timed_out(seconds: float) -> ApiError:
    """Return the 504 of a question without an answer in time."""
    return ApiError(504, f"no answer within {seconds:g} s", code="timeout")


def translate(error: BaseException) -> ApiError:
    """Return what a client gets for any error. Those of the user's input name the request's field. What failed within
    says nothing of its inside: which node, process or file it was belongs into the log, where it has the request's id.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QuestionsTooLongError | ContextLengthError):
        return ApiError(400, without_places(_in_words_of_requests(_one_line(error))), "messages", TOO_LONG)
    if isinstance(error, InputError) and not isinstance(error, JournalError):
        return _of_input(error)
    if isinstance(error, CacheError):
        message = f"the team has no memory for this request now; send it again, or a shorter one; {_IN_LOG}"
        return ApiError(503, message, code="out_of_memory", retry_after=_RETRY_SECONDS)
    if isinstance(error, _PASSING):
        message = f"the team lost a part of its work; send the request again; {_IN_LOG}"
        return ApiError(503, message, code="unavailable", retry_after=_RETRY_SECONDS)
    if isinstance(error, asyncio.CancelledError):
        return aborted()
    if isinstance(error, TimeoutError):
        return ApiError(504, "no answer in time", code="timeout")
    if isinstance(error, LatentMASError):
        return ApiError(500, f"the team could not answer; {_IN_LOG}", code="failed")
    return ApiError(500, f"the server made a mistake; {_IN_LOG}", code="internal")


def reason_for_log(error: BaseException) -> str:
    """Return why a request failed as one line without what it quotes, which may be a part of a prompt. Of an error that
    the package does not know only its class."""
    if not isinstance(error, LatentMASError) or isinstance(error, InputError):
        return type(error).__name__
    return shown(f"{type(error).__name__}: {_QUOTED.sub('…', _one_line(error))}", most=_LOGGED_CHARS)


def without_places(text: str) -> str:
    """Return `text` with the last name of each absolute path in it: where a model or a topology is concerns no
    client."""
    return _PATH.sub(r"\1", text)


def _in_words_of_requests(text: str) -> str:
    for ours, theirs in _PARAMS.items():
        text = re.sub(rf"(?<!\.)\b{ours}\b", theirs, text)
    return text


def _of_input(error: InputError) -> ApiError:
    """Return the error of a run's setting or of a question, in the words of the request."""
    field, expected = without_places(error.field), without_places(error.expected)
    param: str | None = None
    if isinstance(error, ConfigError):
        param = _ALL_PARAMS.get(error.field)
        field, expected = param or field, _in_words_of_requests(expected)
    elif isinstance(error, TaskError | ModelError):
        # A model was loaded before it was served: what it refuses now is the request's text.
        param = "messages"
    value = error.value
    if isinstance(error, ModelError) and isinstance(value, str):
        value = value.rstrip("/").rpartition("/")[2]  # of a folder its name
    elif isinstance(value, str) and param is None:
        value = without_places(value)
    return ApiError(400, str(InputError(field, value, expected)), param, "invalid_value")


def _one_line(error: BaseException) -> str:
    return shown(" ".join(str(error).split()), most=None) or type(error).__name__


def shown(text: str, *, most: int | None = _SHOWN_CHARS) -> str:
    """Return a client's text as one printable line of at most `most` characters."""
    kept = text if most is None or len(text) <= most else text[:most] + "…"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in kept)
