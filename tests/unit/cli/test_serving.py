"""`latentmas serve-key`, and the flags of an endpoint's limits."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from latentmas_ray.cli.commands.serving.limit_flags import limit_options, limits_of
from latentmas_ray.cli.errors import exit_code_of
from latentmas_ray.cli.main import main
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
}


def limits(host: str = "127.0.0.1", **flags: Any) -> ServeLimits:
    return limits_of({**DEFAULTS, **flags}, host)


def run(*arguments: str, capture: list[ServeLimits]) -> int:
    """The exit code of a command that has the flags."""

    def serve(limits: ServeLimits, host: str = "127.0.0.1") -> None:
        capture.append(limits)

    app = typer.Typer()
    app.command()(limit_options(serve))
    command = typer.main.get_command(app)
    return exit_code_of(lambda: command.main(list(arguments), standalone_mode=False))


def test_a_new_key_can_be_written_to_a_file_at_once(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve-key", "ann"]) == 0
    out, err = capfd.readouterr()
    key = err.split()[-1]
    path = tmp_path / "keys"
    path.write_text(out)
    path.chmod(0o600)
    assert ApiKeys.from_file(str(path)).name_of(f"Bearer {key}") == "ann"
    assert key not in out


def test_a_new_key_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve-key", "ann", "--json"]) == 0
    made = json.loads(capfd.readouterr().out)
    assert ApiKeys.from_environment(made["entry"]).name_of(f"Bearer {made['key']}") == made["name"] == "ann"


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
    ("flag", "value", "field"),
    [
        ("--requests-per-minute", "0", "requests_per_minute"),
        ("--requests-per-minute", "1.5", "requests_per_minute"),
        ("--max-waiting", "-1", "max_waiting"),
        ("--max-running", "many", "max_running"),
        ("--max-memory", "5", "max_memory"),
        ("--max-body", "0B", "max_body"),
        ("--max-body", "big", "max_body"),
        ("--max-message-chars", "", "max_message_chars"),
        ("--request-timeout", "0", "request_timeout"),
        ("--request-timeout", "100000", "request_timeout"),
        ("--allow-origin", "a.example", "allow_origin"),
        ("--api-keys", "/no/such/file", "api_keys"),
        ("--api-keys", "~nosuchuser/keys", "api_keys"),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_code_2(
    flag: str, value: str, field: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{flag}={value}", capture=[]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {field}: ")
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
