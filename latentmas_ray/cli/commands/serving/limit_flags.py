"""The flags of `latentmas serve` that say who may ask, how much, and how often."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from latentmas_ray.cli.options import whole_number
from latentmas_ray.errors import ConfigError
from latentmas_ray.units import parse_bytes

if TYPE_CHECKING:
    from latentmas_ray.serve.admission.limits import ServeLimits

_MOST = 10**9
_MAX_SECONDS = 86_400


class _Flag(NamedTuple):
    metavar: str
    help: str
    default: str | None = None
    is_list: bool = False


LIMIT_FLAGS: Mapping[str, _Flag] = {
    "api_keys": _Flag(
        "FILE", "the keys that are answered, as serve-key makes them (default: LATENTMAS_API_KEYS, else anyone)"
    ),
    "requests_per_minute": _Flag("N", "of each key, or without keys of each address (default: any number)"),
    "max_waiting": _Flag("N", "questions that may wait; further ones are refused with 429", "256"),
    "max_running": _Flag("N", "questions that the team works on at the same time", "64"),
    "max_memory": _Flag("SIZE", "working memory of the questions that the team works on (default: not bounded here)"),
    "max_body": _Flag("SIZE", "of a request", "4MiB"),
    "max_message_chars": _Flag("N", "characters of one message or prompt", "200000"),
    "request_timeout": _Flag("S", "seconds until the answer, waiting included", "600"),
    "conversation_memory": _Flag("SIZE", "kept of all conversations; the oldest are dropped", "1GiB"),
    "max_conversations": _Flag("N", "whose memory is kept; 0 keeps none", "256"),
    "conversation_ttl": _Flag("S", "seconds after its last turn until a conversation is dropped", "3600"),
    "allow_origin": _Flag("ORIGIN", "a page's origin that may ask, such as https://chat.example.org", is_list=True),
    "allow_host": _Flag("NAME", "a name of this server, where it has no keys and listens locally", is_list=True),
}


def limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags to a command that has `--host`. It gets the limits as `limits`, a `ServeLimits`. Raises ConfigError
    that names the flag."""
    own = [one for one in inspect.signature(command).parameters.values() if one.name != "limits"]

    def with_flags(*config: Any, **values: Any) -> None:
        flags = {name: values.pop(name) for name in (*LIMIT_FLAGS, "log_prompts")}
        limits = limits_of(flags, host=values["host"])
        if flags["allow_host"] and limits.allow_hosts is None:
            cause = "--api-keys" if limits.keys is not None else f"--host {values['host']}"
            typer.echo(f"note: --allow-host does nothing with {cause}: any name is taken", err=True)
        command(*config, limits=limits, **values)

    log_prompts = Annotated[bool, typer.Option("--log-prompts", help="write the bodies of requests to the log, too")]
    with_flags.__name__, with_flags.__doc__ = command.__name__, command.__doc__
    flags = [*(_parameter(name) for name in LIMIT_FLAGS), _keyword("log_prompts", log_prompts, False)]
    with_flags.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
    return with_flags


def limits_of(flags: Mapping[str, Any], host: str) -> "ServeLimits":
    """Return the limits that the flags set, for a server that listens on `host`. Raises ConfigError."""
    from latentmas_ray.serve.admission.limits import ServeLimits, hosts_for, read_keys
    from latentmas_ray.serve.api.messages import MessageLimits
    from latentmas_ray.serve.conversations.limits import ConversationLimits

    def number(name: str, least: int = 1, most: int = _MOST) -> int:
        return whole_number(name, flags[name], least=least, most=most)

    keys = read_keys(flags["api_keys"])
    chars = number("max_message_chars")
    return ServeLimits(
        keys=keys,
        messages=MessageLimits(chars, max(chars, MessageLimits().max_request_chars)),
        max_body_bytes=_size("max_body", flags["max_body"]),
        requests_per_minute=None if flags["requests_per_minute"] is None else number("requests_per_minute"),
        max_waiting=number("max_waiting", least=0),
        max_running=number("max_running"),
        max_memory_bytes=None if flags["max_memory"] is None else _size("max_memory", flags["max_memory"]),
        request_seconds=number("request_timeout", most=_MAX_SECONDS),
        allow_origins=tuple(flags["allow_origin"] or ()),
        allow_hosts=hosts_for(host, keys, flags["allow_host"] or ()),
        log_prompts=flags["log_prompts"],
        conversations=ConversationLimits(
            max_bytes=_size("conversation_memory", flags["conversation_memory"]),
            max_number=number("max_conversations", least=0),
            ttl_seconds=number("conversation_ttl"),
        ),
    )


def _size(name: str, text: str) -> int:
    try:
        size = parse_bytes(text)
    except ValueError as problem:
        raise ConfigError(name, text, str(problem)) from None
    if size < 1:
        raise ConfigError(name, text, "it must be at least 1B")
    return size


def _parameter(name: str) -> inspect.Parameter:
    flag = LIMIT_FLAGS[name]
    option = typer.Option("--" + name.replace("_", "-"), metavar=flag.metavar, help=flag.help)
    kind = list[str] | None if flag.is_list else str | None
    return _keyword(name, Annotated[kind, option], flag.default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
