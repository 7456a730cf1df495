"""API keys: entries, files and their rights, and what a header must be."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from latentmas_ray.errors import ConfigError
from latentmas_ray.serve.admission.keys import ENVIRONMENT_NAME, ApiKeys, make_key
from latentmas_ray.serve.api.errors import ApiError

DIGEST = sha256(b"key").hexdigest()


def file_of(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "keys"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return str(path)


def test_a_new_key_is_recognised_by_its_entry(tmp_path: Path) -> None:
    ann, bob = make_key("ann"), make_key("bob")
    assert ann.key not in ann.entry
    assert ann.key != bob.key
    keys = ApiKeys.from_file(file_of(tmp_path, f"# two people\n\n{ann.entry}\n  {bob.entry}\r\n"))
    assert len(keys) == 2
    assert keys.name_of(f"Bearer {ann.key}") == "ann"
    assert keys.name_of(f"bearer  {bob.key} ") == "bob"


def test_the_environment_has_entries_with_commas() -> None:
    ann, bob = make_key("ann"), make_key("bob")
    keys = ApiKeys.from_environment(f"{ann.entry}, {bob.entry},")
    assert keys.name_of(f"Bearer {bob.key}") == "bob"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic a2V5", "Bearer a b", "Bearer nö", f"Bearer {DIGEST}", "key"]
)
def test_a_header_without_a_known_key_is_401(header: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        ApiKeys({"ann": DIGEST}).name_of(header)
    error = caught.value
    assert (error.status, error.code, error.headers) == (401, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
    assert "a2V5" not in error.message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "without a key"),
        ("# nothing\n", "without a key"),
        (f"ann:sha256:{DIGEST}\nlm-a-key-itself\n", "line 2"),
        (f"ann:md5:{DIGEST}", "line 1"),
        (f"ann:sha256:{DIGEST[:-1]}", "line 1"),
        (f"ann:sha256:{DIGEST.upper()}", "line 1"),
        (f":sha256:{DIGEST}", "line 1"),
        (f"a/b:sha256:{DIGEST}", "line 1"),
        (f"ann:sha256:{DIGEST}\nann:sha256:{sha256(b'b').hexdigest()}", "line 2"),
        (f"ann:sha256:{DIGEST}\nbob:sha256:{DIGEST}", "line 2"),
    ],
)
def test_a_wrong_line_is_named_and_not_shown(tmp_path: Path, text: str, shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ApiKeys.from_file(file_of(tmp_path, text))
    assert caught.value.field == "api_keys"
    assert caught.value.value.startswith(str(tmp_path))
    assert caught.value.value.endswith(shown)
    assert "lm-a-key-itself" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_wrong_entry_of_the_environment_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        ApiKeys.from_environment("my-password")
    assert (caught.value.field, caught.value.value) == (ENVIRONMENT_NAME, "entry 1")


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o602, 0o644, 0o666])
def test_a_file_that_others_may_change_or_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = file_of(tmp_path, f"ann:sha256:{DIGEST}", mode)
    with pytest.raises(ConfigError, match=r"got '[^']*'; others may change or read it; .* chmod 600 does$"):
        ApiKeys.from_file(path)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_a_file_of_its_owner_is_read(tmp_path: Path, mode: int) -> None:
    """A group may read it: Kubernetes gives a secret to one."""
    assert len(ApiKeys.from_file(file_of(tmp_path, f"ann:sha256:{DIGEST}", mode))) == 1


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "binary").chmod(0o600)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (
        str(tmp_path),
        str(tmp_path / "pipe"),
        str(tmp_path / "none"),
        str(tmp_path / "binary"),
        "a\0b",
        "/dev/null",
    ):
        with pytest.raises(ConfigError) as caught:
            ApiKeys.from_file(path)
        assert caught.value.field == "api_keys"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path, f"ann:sha256:{DIGEST}")
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match=r"got '[^']*'; it must belong to the user of the server, or to root$"):
        ApiKeys.from_file(path)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "a" * 65])
def test_a_key_needs_a_plain_name(name: str) -> None:
    with pytest.raises(ConfigError):
        make_key(name)
