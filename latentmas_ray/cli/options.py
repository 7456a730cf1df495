"""Makes flags from `RunConfig`, one per field with its default and description, and parses whole numbers.

A flag's value stays text until `make_config` validates it, so that all error messages come from one validator.
"""

import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import Field, TypeAdapter, ValidationError

from latentmas_ray.config import RunConfig, TransportName, make_config
from latentmas_ray.config.choices import RUN_METHODS
from latentmas_ray.config.renamed import CONFIG_FIELDS, SWITCHES
from latentmas_ray.config.thoughts import THOUGHT_RULES
from latentmas_ray.errors import PIPELINE_FIELDS, ConfigError
from latentmas_ray.runs.controls.names import DEFAULT_CONTROLS

# The value in --help, for fields whose type does not say enough.
_METAVARS = {
    "task": "NAME|FILE",
    "method": "|".join(RUN_METHODS),
    "topology": "NAME|FILE.yaml",
    "model": "tiny|FOLDER|HUB_ID",
    "models": "AGENT=MODEL,…",
    "translation": "FILE|DIR",
    "device": "auto|cpu|cuda[:N]",
    "memory_in_flight": "auto|SIZE",
    "address": "ADDR",
    "output": "DIR|URL",
    "latent_steps": "N|auto|fill:N|max:N",
    "batch_size": "B",
    "decode_batch": "B",
    "replicas": "R|AGENT=R,…",
    "min_replicas": "R|AGENT=R,…",
    "max_replicas": "R|AGENT=R,…|auto",
    "transport": "auto|NAME|LINK=NAME,…",
    "seed": "S",
    "abstractions": "M",
    "samples": "K",
    "decide_accuracies": "FILE|DIR",
    "thoughts": "RULE",
}
# Flags that name what a run starts from.
_STARTS: Mapping[str, Any] = {
    "config_file": typer.Option(
        "--config", metavar="FILE|DIR", help="the settings of an earlier run, from its config.yaml; flags override them"
    ),
    "preset": typer.Option(
        "--preset", metavar="NAME", help="published settings, one of latentmas presets; flags override them"
    ),
}
_CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=typer.Context)
_MAX_WHOLE_NUMBER = 10**12
_METAVAR_BY_TYPE = {int: "N", float: "X", str: "TEXT"}


def flag_of(field: str) -> str:
    """Return the flag of a field: `latent_steps` -> `--latent-steps`."""
    return "--" + field.replace("_", "-")


def is_given(context: typer.Context, name: str) -> bool:
    """Return whether the user typed the flag of this parameter."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def run_options(
    *fields: str,
    fixed: Mapping[str, Any] | None = None,
    helps: Mapping[str, str] | None = None,
    starts: tuple[str, ...] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds the flags of `fields` to a command (of all fields if none is named).

    The command gets their values as its first argument, a validated `RunConfig`; its other parameters are unchanged.
    `fixed` replaces defaults of `RunConfig`: the default of a flag, or the value of a field without a flag. `helps`
    replaces the descriptions of fields that mean something else to this command. `starts` names flags of
    `cli.starting_point`: what they name replaces defaults, too.
    """
    names = fields or tuple(RunConfig.model_fields)
    fixed = fixed or {}
    renamed = {name.old: name.new for name in CONFIG_FIELDS if name.new in names}
    switches = {switch: field for switch, field in SWITCHES.items() if field in names}
    old_names = renamed | switches
    refused = PIPELINE_FIELDS if "tp" in names else ()
    defaults = {name: fixed.get(name, _default_of(name)) for name in names}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        has_context = any(parameter.name == _CONTEXT.name for parameter in own)

        def with_flags(**values: Any) -> None:
            context = values[_CONTEXT.name] if has_context else values.pop(_CONTEXT.name, None)
            flags = {name: values.pop(name) for name in (*names, *old_names, *refused) if name in values}
            typed = {name for name in flags if context is not None and is_given(context, name)}
            given = {name: value for name, value in flags.items() if value is not None}
            for old, new in old_names.items():
                if old in given and new not in typed:
                    given.pop(new, None)  # its default, not given by the user
            set_here = {old_names.get(name, name) for name in typed}
            named = {name: value for name in starts if (value := values.pop(name, None)) is not None}
            config = _started_from(named, fixed, given, set_here) if named else make_config({**fixed, **given})
            # Only what the user typed counts as set, and not the defaults of the flags; and the task that is named.
            set_here |= {"task"} if named else set()
            command(RunConfig.model_construct(set_here, **dict(config)), **values)

        flags = [_parameter(name, default, (helps or {}).get(name)) for name, default in defaults.items()]
        flags += [_switch_parameter(name) for name in switches]
        flags += [_hidden_parameter(name) for name in (*renamed, *refused)]
        flags += [_start_parameter(name) for name in starts]
        with_flags.__name__ = command.__name__
        with_flags.__doc__ = command.__doc__
        own = own if has_context else [*own, _CONTEXT]
        with_flags.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
        return with_flags

    return decorate


def with_controls(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the default of a `--controls` that has no value: typer's options always have one."""
    followed = zip(arguments, [*arguments[1:], "--"], strict=False)
    return [
        f"{one}={','.join(DEFAULT_CONTROLS)}" if one == "--controls" and after.startswith("-") else one
        for one, after in followed
    ]


def _started_from(
    named: Mapping[str, str], fixed: Mapping[str, Any], flags: Mapping[str, Any], typed: Collection[str]
) -> RunConfig:
    """Return the configuration of a run that starts from what `--config` or `--preset` names; those of `flags` that are
    `typed` override it. Raises ConfigError."""
    from latentmas_ray.cli.starting_point import find_start, tell_changes  # needs YAML, and imports this module

    start = find_start(named, typed)
    begin = {name: value for name, value in start.fields.items() if name not in typed}
    config = make_config({**fixed, **begin, **{name: value for name, value in flags.items() if name not in begin}})
    tell_changes(start, config, typed)
    return config


def whole_number(field: str, text: str, *, least: int, most: int) -> int:
    """Parse the flag of `field`. Raises ConfigError unless it is a whole number from `least` to `most`."""
    try:
        return _parse_int(text, least, most)
    except ValidationError:
        raise ConfigError(field, text, f"it must be a whole number from {least} to {most}") from None


def parsed_number(field: str, text: str, kind: type[int] | type[float]) -> int | float:
    """Parse the flag of `field`, of any size. Raises ConfigError unless it is a number, and a whole one for int."""
    try:
        return TypeAdapter(kind).validate_strings(text)
    except ValidationError:
        raise ConfigError(field, text, "it must be a whole number" if kind is int else "it must be a number") from None


def whole_numbers(field: str, text: str, example: str) -> tuple[int, ...]:
    """Parse the flag of `field`, such as `1,8`. Raises ConfigError unless it is a list of whole numbers."""
    try:
        return tuple(_parse_int(part, 0, _MAX_WHOLE_NUMBER) for part in text.split(","))
    except ValidationError:
        raise ConfigError(field, text, f"it must be whole numbers of at least 1, as in {example}") from None


def numbers(field: str, text: str, example: str) -> tuple[float, ...]:
    """Parse the flag of `field`, such as `0.5,2`. Raises ConfigError unless it is a list of numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(field, text, f"it must be numbers, as in {example}") from None


def _default_of(name: str) -> Any:
    """Return the field's default; None if it depends on other fields, so that no value is passed."""
    field = RunConfig.model_fields[name]
    return None if field.default_factory is not None else field.default


def _parameter(name: str, default: Any, help_text: str | None = None) -> inspect.Parameter:
    field = RunConfig.model_fields[name]
    help_text = help_text or field.description
    flag = flag_of(name)
    annotation: Any
    if field.annotation is bool:
        declaration = f"{flag}/--no-{flag[2:]}" if default else flag
        annotation = Annotated[bool, typer.Option(declaration, help=help_text)]
    else:
        option = typer.Option(
            flag,
            help=help_text,
            metavar=_metavar(name, field.annotation),
            autocompletion=_completion(name, field.annotation),
        )
        annotation = Annotated[str | None, option]
        default = None if default is None else str(default)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def complete_topology(incomplete: str) -> list[str]:
    """Return the built-in topologies that begin so. Without one the shell completes file names."""
    from latentmas_ray.topology import BUILTIN  # not needed for any other completion

    return [name for name in BUILTIN if name.startswith(incomplete)]


def complete_task(incomplete: str) -> list[str]:
    """Return the tasks that begin so."""
    from latentmas_ray.tasks import BENCHMARKS
    from latentmas_ray.tasks.files import BUILTIN_TASKS

    names = (*BUILTIN_TASKS, *(benchmark.name for benchmark in BENCHMARKS))
    return [name for name in names if name.startswith(incomplete)]


def _completion(name: str, annotation: Any) -> Callable[[str], list[str]] | None:
    """Return the function that completes values of a field; None where only the user can know them."""
    if name in _COMPLETIONS:
        return _COMPLETIONS[name]
    if get_origin(annotation) is not Literal:
        return None
    choices = get_args(annotation)
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def complete_method(incomplete: str) -> list[str]:
    """Return the methods of runs that begin so."""
    return [name for name in RUN_METHODS if name.startswith(incomplete)]


def complete_transport(incomplete: str) -> list[str]:
    """Return the transports that begin so."""
    return [name for name in get_args(TransportName) if name.startswith(incomplete)]


def complete_thoughts(incomplete: str) -> list[str]:
    """Return the thought rules that begin so."""
    return [name for name in THOUGHT_RULES if name.startswith(incomplete)]


_COMPLETIONS: Mapping[str, Callable[[str], list[str]]] = {
    "topology": complete_topology,
    "task": complete_task,
    "method": complete_method,
    "transport": complete_transport,
    "thoughts": complete_thoughts,
}


def _switch_parameter(name: str) -> inspect.Parameter:
    """Return the flags of a switch, which stand for two values of another field."""
    help_text = f"on: --{SWITCHES[name]} {name}; off: --{SWITCHES[name]} identity"
    annotation = Annotated[bool | None, typer.Option(f"--{name}/--no-{name}", help=help_text, show_default=False)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _hidden_parameter(name: str) -> inspect.Parameter:
    """Return the flag of a field's old name, or of a field that is refused with advice; --help does not show it."""
    declarations = (flag_of(name), "-pp") if name == "pp" else (flag_of(name),)
    annotation = Annotated[str | None, typer.Option(*declarations, hidden=True)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _start_parameter(name: str) -> inspect.Parameter:
    annotation = Annotated[str | None, _STARTS[name]]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(name: str, annotation: Any) -> str:
    if name in _METAVARS:
        return _METAVARS[name]
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not types.NoneType)
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    return _METAVAR_BY_TYPE[annotation]


def _parse_int(text: str, least: int, most: int) -> int:
    number: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=least, le=most)])
    return number.validate_strings(text)
