"""Makes the flags of a benchmark from its settings: one per field, with its default and description."""

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated, Any, get_args, get_type_hints

import typer

from latentmas_ray.bench.answer.settings import NOTHING, names_in
from latentmas_ray.cli.options import flag_of, numbers, parsed_number, whole_numbers


def settings_flags(settings: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a flag for each field of the dataclass `settings` to a command.

    A field's metadata are its `metavar` and its `help`. The command gets the values that were given, by field, as its
    first argument; its other parameters are unchanged. Numbers and lists are parsed: ConfigError for what is none.
    """
    own_fields = {field.name: field for field in fields(settings)}
    kinds = {name: _kind(hint) for name, hint in get_type_hints(settings).items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *others = inspect.signature(command, eval_str=True).parameters.values()
        others = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in others]

        def with_flags(**values: Any) -> None:
            flags = {name: values.pop(name) for name in own_fields}
            given = {
                name: _parsed(own_fields[name], kinds[name], value)
                for name, value in flags.items()
                if value is not None
            }
            command(given, **values)

        flags = [_parameter(field) for field in own_fields.values()]
        with_flags.__name__ = command.__name__
        with_flags.__doc__ = command.__doc__
        with_flags.__signature__ = inspect.Signature([*flags, *others])  # type: ignore[attr-defined]
        return with_flags

    return decorate


def _kind(hint: Any) -> Any:
    """Return a type without None: int, float, str, or a tuple of them."""
    if hint in (int, float, str) or (get_args(hint)[1:] == (...,)):
        return hint
    return next(kind for kind in get_args(hint) if kind is not type(None))


def _parsed(field: Field[Any], kind: Any, value: Any) -> Any:
    if kind is str:
        return value
    if kind in (int, float):
        return parsed_number(field.name, value, kind)
    of = get_args(kind)[0]
    if of is str or value.strip() == NOTHING:
        return names_in(value)
    return (whole_numbers if of is int else numbers)(field.name, value, _text(field.default) or "0.5,2")


def _parameter(field: Field[Any]) -> inspect.Parameter:
    text = field.metadata["help"]
    if field.default not in (None, ()):
        text += f" (default: {_text(field.default)})"
    option = typer.Option(flag_of(field.name), metavar=field.metadata["metavar"], help=text)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def _text(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
