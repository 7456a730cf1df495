"""The limits of an endpoint: what `latentmas serve` sets of them, checked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from typing import Any, ClassVar, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from latentmas_ray.env import read_environment
from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home
from latentmas_ray.serve.admission.keys import ApiKeys
from latentmas_ray.serve.api.messages import MessageLimits
from latentmas_ray.serve.conversations.limits import ConversationLimits

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d{1,5})?|https?://\[[0-9a-fA-F:]+\](?::\d{1,5})?")
_ORIGIN_FORM: Final = "it must be the start of a page's address, as in https://chat.example.org, or * for any page"
_HOST: Final = re.compile(r"[A-Za-z0-9_.-]{1,253}|\[[0-9a-fA-F:.]+\]", re.ASCII)
_HOST_FORM: Final = "it must be a name or an address without scheme and port, as in chat.example.org"
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
        return _LIMITS.validate_python({**values, "keys": read_keys(path)})
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(own := first.get("ctx", {}).get("error"), ConfigError):  # of `ServeLimits` itself
            raise ConfigError(f"limits.{own.field}", own.value, own.expected) from None
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"limits.{place}", first["input"], first["msg"].replace("Input should", "it must")) from None


def hosts_for(host: str, keys: ApiKeys | None, more: Sequence[str] = ()) -> tuple[str, ...] | None:
    """Return `allow_hosts` for a server that listens on `host`.

    A server without keys that listens on this machine alone is asked under a local name only: a page of another name
    that leads here (DNS rebinding) would pass for its own. `more` are further names, as of a proxy in front. Raises
    ConfigError for what no header `Host` can name.
    """
    for name in more:
        if _HOST.fullmatch(name) is None:
            raise ConfigError("allow_host", name, _HOST_FORM)
    if keys is not None or not is_local(host):
        return None
    return (*_LOCAL_NAMES, host.lower(), *(name.lower() for name in more))


def is_local(host: str) -> bool:
    """Whether a server that listens on this host can be reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _without_port(host: str) -> str:
    return re.sub(r":\d*$", "", host)
