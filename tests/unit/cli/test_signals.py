"""Stop signals raise like Ctrl-C, once."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread

import pytest
import typer

from latentmas_ray.cli.errors import CommandGroup, exit_code_of
from latentmas_ray.cli.signals import stop_signals_interrupt

SIGNALS = [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGHUP, "SIGHUP", 129)]


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number, _, _ in SIGNALS}  # nohup ignores SIGHUP
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def command_of(body: object) -> object:
    app = typer.Typer(cls=CommandGroup, add_completion=False)
    app.command("run")(body)  # type: ignore[arg-type]
    app.command("other")(lambda: None)
    return lambda: typer.main.get_command(app).main(["run"], prog_name="x", standalone_mode=False)


@pytest.mark.parametrize(("number", "name", "code"), SIGNALS)
def test_a_command_ends_with_the_exit_code_of_the_signal_and_its_notes(
    number: signal.Signals, name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned_up = []

    def body() -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as error:
            os.kill(os.getpid(), number)  # wrappers forward a signal twice
            cleaned_up.append(True)
            error.add_note("--resume continues")
            raise

    assert exit_code_of(command_of(body)) == code  # type: ignore[arg-type]
    assert cleaned_up == [True]
    assert capsys.readouterr().err == f"error: terminated by {name}\n  --resume continues\n"
    os.kill(os.getpid(), number)  # while the interpreter shuts down


def test_handlers_are_restored_after_a_command_without_a_signal() -> None:
    before = [signal.getsignal(number) for number, _, _ in SIGNALS]
    with stop_signals_interrupt():
        assert [signal.getsignal(number) for number, _, _ in SIGNALS] != before
    assert [signal.getsignal(number) for number, _, _ in SIGNALS] == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with stop_signals_interrupt():
        os.kill(os.getpid(), signal.SIGHUP)


def test_an_error_of_the_body_passes() -> None:
    with pytest.raises(ZeroDivisionError), stop_signals_interrupt():
        raise ZeroDivisionError


def test_other_threads_cannot_set_handlers() -> None:
    before, codes = signal.getsignal(signal.SIGTERM), []
    thread = Thread(target=lambda: codes.append(exit_code_of(lambda: 0)))
    thread.start()
    thread.join()
    assert (codes, signal.getsignal(signal.SIGTERM)) == ([0], before)


def test_an_interrupt_of_ray_after_the_signal_counts_as_the_signal(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        raise KeyboardInterrupt  # Ray's, which replaces the handler's

    assert exit_code_of(command_of(body)) == 143  # type: ignore[arg-type]
    assert capsys.readouterr().err == "error: terminated by SIGTERM\n"


def test_ctrl_c_has_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        raise KeyboardInterrupt

    assert exit_code_of(command_of(body)) == 130  # type: ignore[arg-type]
    assert capsys.readouterr().err == "error: interrupted\n"
