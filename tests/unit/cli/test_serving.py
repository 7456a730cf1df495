"""`latentmas serve-key`, and the flags of an endpoint's limits."""

import os
from pathlib import Path
from typing import Any

import pytest
import typer

from latentmas_ray.cli.commands.serving.limit_flags import limit_options, limits_of
from latentmas_ray.cli.errors import exit_code_of
from latentmas_ray.cli.main import app, main
from latentmas_ray.errors import ConfigError
from latentmas_ray.serve.admission.keys import ApiKeys, make_key
from latentmas_ray.serve.admission.limits import ServeLimits

DEFAULTS: dict[str, Any] = {
    "api_keys": None,
    "requests_per_minute": None,
    "max_waiting": "256",
    "max_running": "64",
    "max_memory": None,
    "max_body": "4MiB",
    "max_message_chars": "200000",
    "request_timeout": "600",
    "allow_origin": None,
    "allow_host": None,
    "log_prompts": False,
    "conversation_memory": "1GiB",
    "max_conversations": "256",
    "conversation_ttl": "3600",
}


def limits(host: str = "127.0.0.1", **flags: Any) -> ServeLimits:
    return limits_of({**DEFAULTS, **flags}, host)


def run(*arguments: str, capture: list[ServeLimits]) -> int:
    """The exit code of a command that has the flags."""

    def serve(limits: ServeLimits, host: str = "127.0.0.1") -> None:
        capture.append(limits)

    small = typer.Typer()
    small.command()(limit_options(serve))
    command = typer.main.get_command(small)
    return exit_code_of(lambda: command.main(list(arguments), standalone_mode=False))


def test_a_new_key_is_shown_with_its_entry(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve-key", "ann"]) == 0
    (_, key), (_, entry) = (line.split() for line in capfd.readouterr().out.splitlines())
    assert ApiKeys.from_environment(entry).name_of(f"Bearer {key}") == "ann"


def test_a_new_key_is_added_to_a_file_of_its_owner(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for name in ("ann", "bob"):
        assert main(["serve-key", name, "--file", str(path)]) == 0
    ann, bob = capfd.readouterr().out.split()
    keys = ApiKeys.from_file(str(path))  # which others may not read
    assert [keys.name_of(f"Bearer {key}") for key in (ann, bob)] == ["ann", "bob"]
    assert ann not in path.read_text()
    assert main(["serve-key", "ann", "--file", str(path)]) == 2
    assert "has a key of this name" in capfd.readouterr().err
    path.write_text(path.read_text().rstrip())  # as an editor may leave it
    assert main(["serve-key", "cy", "--file", str(path)]) == 0
    assert len(ApiKeys.from_file(str(path))) == 3


@pytest.mark.parametrize("file", ["/no/such/folder/keys", "/", "a\0b"])
def test_a_file_that_cannot_be_is_bad_input(file: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve-key", "ann", "--file", file]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("make", "expected"), [("shared", "others may change or read it"), ("pipe", "it must be a file")]
)
def test_a_file_that_no_server_would_take_gets_no_key(
    make: str, expected: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / make
    if make == "pipe":  # opening it would wait for its reader
        os.mkfifo(path, 0o600)
    else:
        path.touch()
        path.chmod(0o644)
    assert main(["serve-key", "ann", "--file", str(path)]) == 2
    said = capfd.readouterr()
    assert said.err.startswith(f"error: --file: got '{path}'; {expected}")
    assert (said.out, path.stat().st_size) == ("", 0)


def test_a_file_with_a_comment_alone_gets_its_first_key(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# of the team")
    path.chmod(0o600)
    assert main(["serve-key", "ann", "--file", str(path)]) == 0
    assert ApiKeys.from_file(str(path)).name_of(f"Bearer {capfd.readouterr().out.strip()}") == "ann"


def test_a_key_without_a_plain_name_is_bad_input(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve-key", "a b"]) == 2
    assert capfd.readouterr().err.startswith("error: NAME: got 'a b'; ")


def test_without_flags_the_limits_are_the_defaults() -> None:
    found: list[ServeLimits] = []
    assert run(capture=found) == 0
    assert found == [ServeLimits(allow_hosts=found[0].allow_hosts)]
    assert found[0].allow_hosts is not None
    assert "localhost" in found[0].allow_hosts


def test_every_flag_arrives() -> None:
    found: list[ServeLimits] = []
    arguments = """--requests-per-minute 60 --max-waiting 0 --max-running 8 --max-memory 2GB --max-body 1KB
        --log-prompts --max-message-chars 10 --request-timeout 5 --allow-origin https://a.example
        --allow-origin http://localhost:3000 --allow-host chat.example"""
    assert run(*arguments.split(), capture=found) == 0
    (one,) = found
    assert (one.requests_per_minute, one.max_waiting, one.max_running) == (60, 0, 8)
    assert (one.max_memory_bytes, one.max_body_bytes, one.request_seconds) == (2 * 10**9, 1000, 5)
    assert (one.messages.max_message_chars, one.log_prompts) == (10, True)
    assert one.allow_origins == ("https://a.example", "http://localhost:3000")
    assert one.allows_host("chat.example:443")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--requests-per-minute", "0"),
        ("--requests-per-minute", "1.5"),
        ("--max-waiting", "-1"),
        ("--max-running", "many"),
        ("--max-memory", "5"),
        ("--max-body", "0B"),
        ("--max-body", "big"),
        ("--max-message-chars", ""),
        ("--request-timeout", "0"),
        ("--request-timeout", "100000"),
        ("--allow-origin", "a.example"),
        ("--api-keys", "/no/such/file"),
        ("--api-keys", "~nosuchuser/keys"),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_code_2(flag: str, value: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(f"{flag}={value}", capture=[]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {flag}: got ")
    assert len(err.splitlines()) == 1


def test_keys_come_from_the_environment_or_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ann, bob = make_key("ann"), make_key("bob")
    assert limits().keys is None
    monkeypatch.setenv("LATENTMAS_API_KEYS", ann.entry)
    found = limits()
    assert found.keys is not None
    assert found.keys.name_of(f"Bearer {ann.key}") == "ann"
    assert found.allow_hosts is None  # no page has a key
    path = tmp_path / "keys"
    path.write_text(bob.entry)
    path.chmod(0o600)
    of_file = limits(api_keys=str(path)).keys
    assert of_file is not None
    assert of_file.name_of(f"Bearer {bob.key}") == "bob"
    monkeypatch.setenv("LATENTMAS_API_KEYS", "my-password")
    with pytest.raises(ConfigError, match="LATENTMAS_API_KEYS"):
        limits()


@pytest.mark.parametrize("path", [("serve",), ("mcp",), ("bench", "serve")])
def test_a_mistake_names_the_flag_whatever_flag_it_is(path: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    command: Any = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    options = [max(one.opts, key=len) for one in command.params if one.metavar is not None]
    assert len(options) > 2
    for option in options:
        field = option.removeprefix("--").replace("-", "_")

        def fail(field: str = field) -> None:
            raise ConfigError(field, "a", "it must be b")

        assert exit_code_of(fail) == 2
        assert capfd.readouterr().err == f"error: {option}: got 'a'; it must be b\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--allow-host", "a.example"], ""),
        (["--host", "0.0.0.0"], ""),
        (
            ["--allow-host", "a.example", "--host", "0.0.0.0"],
            "note: --allow-host does nothing with --host 0.0.0.0: any name is taken\n",
        ),
    ],
)
def test_a_name_that_does_nothing_is_said(flags: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*flags, capture=[]) == 0
    assert capfd.readouterr().err == said
