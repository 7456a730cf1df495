"""Flags made from `RunConfig`: every field is one flag, with the field's own default and description.

A flag's value stays text until `make_config` reads it, so that one validator words all complaints.
"""

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from latentmas_ray.config import RunConfig, make_config
from latentmas_ray.config.renamed import CONFIG_FIELDS

# What --help shows as the value, where the type alone does not tell.
_METAVARS = {
    "task": "NAME|FILE",
    "topology": "NAME|FILE.yaml",
    "model": "tiny|FOLDER|HUB_ID",
    "device": "auto|cpu|cuda[:N]",
    "memory_in_flight": "auto|SIZE",
    "address": "ADDR",
    "output": "DIR|URL",
    "batch_size": "B",
    "replicas": "R|AGENT=R,…",
    "seed": "S",
}
_METAVAR_BY_TYPE = {int: "N", float: "X", str: "TEXT"}


def flag_of(field: str) -> str:
    """`latent_steps` -> `--latent-steps`."""
    return "--" + field.replace("_", "-")


def run_options(
    *fields: str, fixed: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that gives a command the flags of `fields` (of every field when none is named).

    The command gets them as its first argument, a validated `RunConfig`; its other parameters stay its own.
    `fixed` holds values other than `RunConfig`'s defaults: the default of a flag that is there, and simply the
    value of a field that has no flag in this command.
    """
    names = fields or tuple(RunConfig.model_fields)
    fixed = fixed or {}
    old_names = {name.old: name.new for name in CONFIG_FIELDS if name.new in names}
    defaults = {name: fixed.get(name, _default_of(name)) for name in names}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()

        def with_flags(**values: Any) -> None:
            flags = {name: values.pop(name) for name in (*names, *old_names) if name in values}
            given = {name: value for name, value in flags.items() if value is not None}
            for old, new in old_names.items():
                if old in given and given.get(new) == defaults[new]:
                    given.pop(new, None)  # as nobody gave it
            command(make_config({**fixed, **given}), **values)

        flags = [_parameter(name, default) for name, default in defaults.items()]
        flags += [_old_parameter(name) for name in old_names]
        with_flags.__name__ = command.__name__
        with_flags.__doc__ = command.__doc__
        with_flags.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
        return with_flags

    return decorate


def _default_of(name: str) -> Any:
    """The field's default; None where other fields decide it, so that nothing is passed on."""
    field = RunConfig.model_fields[name]
    return None if field.default_factory is not None else field.default


def _parameter(name: str, default: Any) -> inspect.Parameter:
    field = RunConfig.model_fields[name]
    flag = flag_of(name)
    annotation: Any
    if field.annotation is bool:
        declaration = f"{flag}/--no-{flag[2:]}" if default else flag
        annotation = Annotated[bool, typer.Option(declaration, help=field.description)]
    else:
        option = typer.Option(flag, help=field.description, metavar=_metavar(name, field.annotation))
        annotation = Annotated[str | None, option]
        default = None if default is None else str(default)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _old_parameter(name: str) -> inspect.Parameter:
    """The flag of a field's old name, which --help does not show."""
    annotation = Annotated[str | None, typer.Option(flag_of(name), hidden=True)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(name: str, annotation: Any) -> str:
    if name in _METAVARS:
        return _METAVARS[name]
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not types.NoneType)
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    return _METAVAR_BY_TYPE[annotation]
