"""The limits of an endpoint: what `latentmas serve` sets of them, checked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address
from typing import Any, ClassVar, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from latentmas_ray.env import read_environment
from latentmas_ray.errors import ConfigError
from latentmas_ray.expected import expected_form
from latentmas_ray.paths import expand_home
from latentmas_ray.serve.admission.keys import ENVIRONMENT_NAME, ApiKeys
from latentmas_ray.serve.api.messages import MessageLimits
from latentmas_ray.serve.conversations.limits import ConversationLimits

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d{1,5})?|https?://\[[0-9a-fA-F:]+\](?::\d{1,5})?")
_ORIGIN_FORM: Final = "it must be the start of a page's address, as in https://chat.example.org, or * for any page"
_HOST: Final = re.compile(r"[A-Za-z0-9_.-]{1,253}|\[[0-9a-fA-F:.]+\]", re.ASCII)
_HOST_FORM: Final = "it must be a name or an address without scheme and port, as in chat.example.org"
# Fields of the limits of a configuration file, by the flag that errors name.
_FIELDS_OF_FLAGS: Final = {
    "allow_host": "allow_hosts",
    "allow_origin": "allow_origins",
    "conversation_memory": "conversations.max_bytes",
    "max_conversations": "conversations.max_number",
    "conversation_ttl": "conversations.ttl_seconds",
    "max_exchanges": "conversations.max_exchanges",
}
# Kinds of pydantic's errors.
_NOT_KNOWN: Final = ("extra_forbidden", "unexpected_keyword_argument")
_FORMS: Final = {"tuple_type": "it must be a list", "dataclass_type": "it must be a mapping"}
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """What a request may be, and how many there may be. Raises ConfigError for an impossible value."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    keys: ApiKeys | None = None  # None: every request is taken
    messages: MessageLimits = field(default_factory=MessageLimits)
    max_body_bytes: int = 4 * 2**20
    body_seconds: float = 30.0  # in which a body must have arrived
    send_seconds: float = 60.0  # in which a client must take some of what is sent to it
    requests_per_minute: int | None = None  # of each key, or without keys of each address
    max_waiting: int = 256  # questions that wait for the team
    max_running: int = 64  # questions that the team has
    max_memory_bytes: int | None = None  # estimated working memory of those that the team has
    request_seconds: float = 600.0  # until the answer, waiting included
    allow_origins: tuple[str, ...] = ()  # pages of other origins that may ask; empty: none (CORS is off)
    allow_hosts: tuple[str, ...] | None = None  # names under which the server is asked; None: any
    log_prompts: bool = False
    conversations: ConversationLimits = field(default_factory=ConversationLimits)

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_running", "requests_per_minute", "max_memory_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name, value, "it must be at least 1")
        for name, value in self.messages._asdict().items():
            if value < 1:
                raise ConfigError(f"messages.{name}", value, "it must be at least 1")
        if self.max_waiting < 0:
            raise ConfigError("max_waiting", self.max_waiting, "it must be at least 0")
        for name in ("body_seconds", "send_seconds", "request_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(name, getattr(self, name), "it must be a number of seconds, more than 0")
        for origin in self.allow_origins:
            if origin != "*" and _ORIGIN.fullmatch(origin) is None:
                raise ConfigError("allow_origin", origin, _ORIGIN_FORM)

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of this origin may read answers."""
        return "*" in self.allow_origins or origin in self.allow_origins

    def allows_host(self, host: str) -> bool:
        """Whether requests to this host, as the header `Host` names it, are taken."""
        return self.allow_hosts is None or _without_port(host).lower() in self.allow_hosts


_LIMITS: TypeAdapter[ServeLimits] = TypeAdapter(ServeLimits)


def read_keys(path: str | None) -> ApiKeys | None:
    """Return the keys of a file, or without one those of the environment, or None. Raises ConfigError."""
    if path is not None:
        return ApiKeys.from_file(expand_home("api_keys", path))
    text = read_environment().api_keys
    return None if text is None else ApiKeys.from_environment(text)


def read_limits(given: Mapping[str, Any]) -> ServeLimits:
    """Return limits from a mapping of a configuration file: fields of `ServeLimits`, but for `keys`, and `api_keys`,
    the path of a file; without it the keys are those of the environment. Raises ConfigError, its field `limits.NAME`.
    """
    known = ["api_keys", *(one.name for one in fields(ServeLimits) if one.name != "keys")]
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"limits.{name}", value, f"known fields are {', '.join(known)}")
    values = dict(given)
    path = values.pop("api_keys", None)
    if not isinstance(path, str | None):
        raise ConfigError("limits.api_keys", path, "it must be the path of a file")
    try:
        limits = _LIMITS.validate_python({**values, "keys": read_keys(path)})
        hosts = None if limits.allow_hosts is None else _checked_hosts(limits.allow_hosts)
    except ConfigError as error:  # of the keys and of the names
        is_elsewhere = error.field == ENVIRONMENT_NAME
        raise error if is_elsewhere else ConfigError(_in_file(error.field), error.value, error.expected) from None
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(own := first.get("ctx", {}).get("error"), ConfigError):  # of `ServeLimits` and its parts
            raise ConfigError(_in_file(own.field), own.value, own.expected) from None
        place = tuple(str(part) for part in first["loc"])
        raise ConfigError(".".join(("limits", *place)), first["input"], _expected(first, place)) from None
    return replace(limits, allow_hosts=hosts)


def _in_file(field: str) -> str:
    """Return the name of a field of the configuration file, where a flag has another."""
    return f"limits.{_FIELDS_OF_FLAGS.get(field, field)}"


def _expected(error: ErrorDetails, place: tuple[str, ...]) -> str:
    """Return what would be right, in the words of the file."""
    kind = error["type"]
    if kind in _NOT_KNOWN:
        known = MessageLimits._fields if place[0] == "messages" else [one.name for one in fields(ConversationLimits)]
        return f"known fields are {', '.join(known)}"
    if kind in _FORMS:
        return _FORMS[kind]
    return expected_form(error)


def hosts_for(host: str, keys: ApiKeys | None, more: Sequence[str] = ()) -> tuple[str, ...] | None:
    """Return `allow_hosts` for a server that listens on `host`.

    A server without keys that listens on this machine alone is asked under a local name only: a page of another name
    that leads here (DNS rebinding) would pass for its own. `more` are further names, as of a proxy in front. Raises
    ConfigError for what no header `Host` can name.
    """
    names = _checked_hosts(more)
    if keys is not None or not is_local(host):
        return None
    return (*_LOCAL_NAMES, host.lower(), *names)


def _checked_hosts(names: Sequence[str]) -> tuple[str, ...]:
    """Return names as requests are compared with them. Raises ConfigError."""
    for name in names:
        if _HOST.fullmatch(name) is None:
            raise ConfigError("allow_host", name, _HOST_FORM)
    return tuple(name.lower() for name in names)


def is_local(host: str) -> bool:
    """Whether a server that listens on this host can be reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _without_port(host: str) -> str:
    return re.sub(r":\d*$", "", host)
