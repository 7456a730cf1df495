"""Turns exceptions into one line on stderr and an exit code.

0 done; 1 a run failed; 2 bad input; 130 interrupted; 143 terminated (SIGTERM), 129 hung up. Any other exception is a
bug of this project and keeps its traceback.
"""

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import typer
from typer.core import TyperGroup

from latentmas_ray.bench.answer.settings import AnswerBenchSettings
from latentmas_ray.bench.matrix.settings import MatrixSettings
from latentmas_ray.bench.serve.settings import ServeBenchSettings
from latentmas_ray.bench.transfer_settings import TransferBenchSettings
from latentmas_ray.cli.commands.serving.limit_flags import LIMIT_FLAGS
from latentmas_ray.cli.options import flag_of
from latentmas_ray.cli.signals import StopSignal, stop_signals_interrupt
from latentmas_ray.cli.unused_flags import NOTES, describe_unused
from latentmas_ray.config import RunConfig
from latentmas_ray.config.renamed import SWITCHES
from latentmas_ray.errors import (
    PIPELINE_FIELDS,
    InputError,
    LatentMASError,
    OldNameWarning,
    ThoughtsAloneWarning,
    UntrainedQuestionWarning,
    UnusedSettingWarning,
    hide_passwords,
)
from latentmas_ray.placement.link_speeds import LinkSpeeds
from latentmas_ray.simulation.settings import SimulationSettings

_SETTINGS = (
    TransferBenchSettings,
    MatrixSettings,
    AnswerBenchSettings,
    ServeBenchSettings,
    SimulationSettings,
    LinkSpeeds,
)
# Fields that are flags of a command: errors name the flag.
_FLAG_FIELDS = (
    frozenset(RunConfig.model_fields)
    | SWITCHES.keys()
    | {field.name for settings in _SETTINGS for field in fields(settings)}
    | frozenset(PIPELINE_FIELDS)
    | {
        "seeds",
        "config",
        "controls",
        "preset",
        "example",
        "from_memory",
        "tp",
        "prompt_tokens",
        "nodes",
        "gpus_per_node",
        "gpu_memory",
        "cpus_per_node",
        "hardware",
        "text_tokens",
        "save",
        "results",
        "calibrate",
        "options",
        "rule",
        "file",
        "accuracies",
        "topologies",
        "topologies_file",
        "host",
        "port",
        "drain_timeout",
        "url",
        "timeout",
    }
    | LIMIT_FLAGS.keys()
)
EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

MAX_ERROR_LINES = 6
_SHOWN_AS_NOTES = (OldNameWarning, ThoughtsAloneWarning, UntrainedQuestionWarning, UnusedSettingWarning)

_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class CommandInterruptError(Exception):
    """Ctrl-C or a stop signal in a command. typer would turn a KeyboardInterrupt into a bare exit code and drop its
    notes."""


class CommandGroup(TyperGroup):
    """A group of commands that raises `CommandInterruptError` for Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise CommandInterruptError from error


def exit_code_of(body: Callable[[], object], more_flags: frozenset[str] = frozenset()) -> int:
    """Run `body` and return the exit code; write errors to stderr, in one line or a few.

    `more_flags` are names of flags in addition to those of the commands in this package.
    """
    stop = StopSignal()
    NOTES.drop()
    try:
        with stop_signals_interrupt() as stop, _warnings_as_notes():
            code = body()
        NOTES.release()
        sys.stdout.flush()
        return code if isinstance(code, int) else EXIT_DONE
    except typer.TyperException as error:
        return _print_error(error.exit_code, " ".join(error.format_message().split()))
    except InputError as error:
        return _print_error(EXIT_BAD_INPUT, str(_named_as_flag(error, _FLAG_FIELDS | more_flags)))
    except LatentMASError as error:
        return _print_error(EXIT_FAILED, str(error) or type(error).__name__, error)
    except CommandInterruptError as error:
        said = "interrupted" if stop.number is None else f"terminated by {stop.number.name}"
        return _print_error(stop.exit_code or EXIT_INTERRUPTED, said, error.__cause__)
    except BrokenPipeError:
        # The reader of our output has closed the pipe, as in `latentmas … | head`. Python flushes stdout once more
        # on exit, which must not fail then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        if error.errno in _DISK_FULL:
            return _print_error(EXIT_FAILED, _describe(error), error)
        if error.errno in _NOT_ALLOWED and error.filename is not None:
            return _print_error(EXIT_BAD_INPUT, _describe(error))
        raise


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Show each of this package's warnings to users as one line on stderr, once."""
    show, shown = warnings.showwarning, set[str]()

    def show_as_note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, _SHOWN_AS_NOTES):
            show(message, category, *where, **more)
            return
        # One line for each flag, whatever the reasons.
        key = message.field if isinstance(message, UnusedSettingWarning) else str(message)
        if key in shown:
            return
        shown.add(key)
        if isinstance(message, UnusedSettingWarning):
            NOTES.hold(describe_unused(message))
        else:
            typer.echo(f"note: {message}", err=True)

    with warnings.catch_warnings():
        for kind in _SHOWN_AS_NOTES:
            warnings.simplefilter("always", kind)
        warnings.showwarning = show_as_note
        yield


def _print_error(code: int, message: str, error: BaseException | None = None) -> int:
    """Print the first `MAX_ERROR_LINES` lines of `message` and the notes of `error`, without passwords.
    Returns `code`."""
    lines = [line for line in message.splitlines() if line.strip()]
    if len(lines) > MAX_ERROR_LINES:
        lines = [*lines[:MAX_ERROR_LINES], "…"]
    lines += getattr(error, "__notes__", [])
    text = "\n".join(["error: " + lines[0], *("  " + line for line in lines[1:])])
    typer.echo(hide_passwords(text), err=True)
    return code


def _named_as_flag(error: InputError, fields: frozenset[str]) -> InputError:
    """Return the error with the name of the flag instead of the field."""
    if error.field in fields:
        return InputError(flag_of(error.field), error.value, error.expected)
    return error


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{os.strerror(error.errno or 0)}"
