"""The password of an output URL is written nowhere, and a run is resumed without it."""

import logging
from collections.abc import Iterator
from ftplib import FTP
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from fsspec.implementations.memory import MemoryFileSystem

from latentmas_ray.cli.main import main
from latentmas_ray.config import RunConfig
from latentmas_ray.errors import InputError, JournalError, RunError, hide_password, hide_passwords
from latentmas_ray.report import load_run
from latentmas_ray.runs.journal import Journal
from latentmas_ray.runs.store import open_output
from tests.cases.scheduler import make_questions

SECRET = "hunter2"
URLS = {
    "memory://user:hunter2@host/runs/a": "memory://user:***@host/runs/a",
    "memory://user:hun/ter2@host/runs/a": "memory://user:***@host/runs/a",
    "memory://user:hun@ter2@host/a": "memory://user:***@host/a",
    "memory://user:hun ter2@host/a": "memory://user:***@host/a",
    "memory://user:hun%40ter2@host/a": "memory://user:***@host/a",
    "memory://:hunter2@host/a": "memory://:***@host/a",
    "memory://user:hun:ter2@host:22/a": "memory://user:***@host:22/a",
    "memory://user:hun'ter2\"@host/a": "memory://user:***@host/a",
    "simplecache::memory://user:hunter2@host/a": "simplecache::memory://user:***@host/a",
    "memory://host/a?sig=hunter2&se=ter2": "memory://host/a?sig=***&se=***",
    "https://hunter2@host/a": "https://***@host/a",
}
QUESTIONS = make_questions(2)


@pytest.fixture(autouse=True)
def store() -> Iterator[MemoryFileSystem]:
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield store
    store.store.clear()


@pytest.mark.parametrize("url", URLS)
def test_the_password_of_a_url_is_hidden(url: str) -> None:
    assert hide_password(url) == URLS[url]


@pytest.mark.parametrize(
    "text",
    [
        "runs/a",
        "runs/a@b",
        "s3://bucket/a",
        "s3://bucket/a@b",
        "ftp://user@host/a",
        "file:///a:b",
        "a?b=c&d=e",
        "x:y@z",
    ],
)
def test_what_has_no_password_is_shown_as_it_is(text: str) -> None:
    assert hide_password(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach ftp://u:hunter2@h/x, try later", "cannot reach ftp://u:***@h/x, try later"),
        ("two: a://u:hunter2@h and b://v:hunter2@i", "two: a://u:***@h and b://v:***@i"),
        ("https://h/x?X-Amz-Signature=hunter2&y=1", "https://h/x?X-Amz-Signature=***&y=1"),
        ("https://h/x?access_token=hunter2", "https://h/x?access_token=***"),
        ("see https://h:80/x or mail a@b", "see https://h:80/x or mail a@b"),
    ],
)
def test_passwords_in_a_text_are_hidden(text: str, shown: str) -> None:
    assert hide_passwords(text) == shown
    assert InputError("f", text, text).value == shown
    assert shown in str(InputError("f", "v", text))


@pytest.mark.parametrize("url", [url for url in URLS if url.startswith(("memory", "simple"))])
def test_no_file_of_a_run_has_the_password_and_it_is_resumed(url: str, store: MemoryFileSystem) -> None:
    for resume in (False, True):
        config = RunConfig(output=url, resume=resume)
        with open_output(url) as output, Journal.open(output.folder, config, QUESTIONS) as journal:
            output.start()
            here = b"".join(path.read_bytes() for path in output.folder.iterdir())
            assert b"ter2" not in here
            assert len(journal.answers) == 0
    there = {name: store.cat_file(name) for name in store.find("/")}
    assert [name for name in there if name.endswith("config.yaml")]
    assert not [name for name, content in there.items() if b"ter2" in content]


def test_a_password_that_an_earlier_version_wrote_goes_away(tmp_path: Path) -> None:
    config = RunConfig(output=str(tmp_path))
    Journal.open(tmp_path, config, QUESTIONS).close()
    stored = config.model_dump() | {"output": "memory://user:hunter2@host/a"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    (tmp_path / "results.jsonl").write_text("half")
    Journal.open(tmp_path, config.model_copy(update={"resume": True}), QUESTIONS).close()
    assert SECRET not in (tmp_path / "config.yaml").read_text()
    assert load_run(tmp_path).config.output == "memory://user:***@host/a"


class Leaky(MemoryFileSystem):  # type: ignore[misc]
    """A store whose errors quote the password, in the URL and alone."""

    protocol = "leaky"
    refuses = "nothing"

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.refuse("connect")

    def refuse(self, what: str) -> None:
        if self.refuses == what:
            raise RuntimeError("530 user:hunter2 is refused\nby leaky://user:hunter2@host/a (hunter2)")

    def exists(self, path: str, **more: Any) -> bool:
        self.refuse("read")
        return bool(super().exists(path, **more))

    def pipe_file(self, path: str, value: bytes, **more: Any) -> None:
        self.refuse("write")
        super().pipe_file(path, value, **more)


URL = "leaky://user:hunter2@host/a"


@pytest.fixture
def leaky(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    fsspec.register_implementation("leaky", Leaky, clobber=True)
    Leaky.clear_instance_cache()
    monkeypatch.setattr(Leaky, "refuses", "nothing")
    return monkeypatch


def start_with_a_file() -> None:
    with open_output(URL) as output:
        (output.folder / "config.yaml").write_text("a")
        output.start()


def test_a_store_that_quotes_the_password_is_told_without_it(
    leaky: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for what in ("connect", "read", "write"):
        leaky.setattr(Leaky, "refuses", what)
        Leaky.clear_instance_cache()
        with pytest.raises(JournalError) as caught:
            start_with_a_file()
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)
        args = ["eval", "--task", "chain", "--limit", "1", "--runtime", "local", "--output", URL]
        Leaky.clear_instance_cache()
        assert main(args) == 2
        err = capfd.readouterr().err
        assert SECRET not in err
        assert err.count("\n") == 1, err
    assert SECRET not in caplog.text


def test_a_failing_upload_is_told_without_it(leaky: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken_off() -> None:
        with open_output(URL, upload_seconds=0.01) as output:
            folders.append(output.folder)
            (output.folder / "config.yaml").write_text("a")
            output.start()
            leaky.setattr(Leaky, "refuses", "write")
            (output.folder / "config.yaml").write_text("ab")
            while not caplog.messages:
                pass

    folders: list[Path] = []
    with caplog.at_level(logging.WARNING), pytest.raises(RunError) as caught:
        broken_off()
    for path in folders[0].iterdir():
        path.unlink()
    folders[0].rmdir()
    assert SECRET not in caplog.text + str(caught.value)


ERRORS = (
    ConnectionRefusedError(111, "refused"),
    OSError("no route"),
    RuntimeError("login"),
    KeyError("key"),
    EOFError(),
)


@pytest.mark.parametrize("error", ERRORS)
def test_any_error_of_a_client_that_connects_is_told_in_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(FTP, "connect", refuse)
    args = [
        "eval",
        "--task",
        "chain",
        "--limit",
        "1",
        "--runtime",
        "local",
        "--output",
        "ftp://user:hunter2@host.down/a",
    ]
    assert main(args) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("error: --output: got 'ftp://user:***@host.down/a'; its store must be reachable")
