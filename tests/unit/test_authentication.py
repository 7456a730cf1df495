"""The key of a run and what is made with it: it does not show, no nonce comes twice, and every bit counts."""

import copy
import hashlib
import hmac
import logging
import os
import pickle
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

import latentmas_ray.authentication as authentication
from latentmas_ray.authentication import Authenticator, RunKey, Stamp, process_key
from latentmas_ray.errors import WireError

SECRET = bytes(range(100, 132))
KEY = RunKey(SECRET)


def shows(text: str) -> bool:
    """Whether a text holds the secret, however it is written."""
    return any(part in text for part in (SECRET.hex(), repr(SECRET)[2:20], SECRET[:8].decode(errors="replace")))


def test_a_key_does_not_show(caplog: pytest.LogCaptureFixture) -> None:
    auth = Authenticator(KEY)
    for thing in (KEY, [KEY], {"key": KEY}, auth, (auth, KEY)):
        assert not shows(repr(thing))
        assert not shows(str(thing))
        assert not shows(f"{thing}")
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").info("made %s", KEY)
    assert not shows(caplog.text)
    try:
        Authenticator(KEY).tag(Stamp(b"w" * 16, -1), 0, b"")
    except OverflowError as error:  # a report that shows the variables of every frame
        told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "RunKey(run " in told
        assert not shows(told)
    with pytest.raises(ValueError, match="32 bytes"):
        RunKey(SECRET[:-1])
    assert not hasattr(KEY, "__dict__")


def test_a_key_is_the_same_after_it_was_sent() -> None:
    for other in (pickle.loads(pickle.dumps(KEY)), copy.deepcopy(KEY)):
        assert other == KEY
        assert other.run_id == KEY.run_id
        assert hash(other) == hash(KEY)
        assert other.derive("x") == KEY.derive("x")
    assert RunKey.generate() != RunKey.generate()
    assert KEY != SECRET
    assert process_key() is process_key() != KEY


@pytest.mark.parametrize("secret", [b"", b"x" * 31, b"x" * 33, "x" * 32, None, 7])
def test_a_key_that_is_none(secret: object) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        RunKey(secret)  # type: ignore[arg-type]


def test_derived_keys_are_those_of_the_standard() -> None:
    """HKDF-SHA256 (RFC 5869) without salt, by hand."""
    info = b"latentmas purpose\0context"
    extracted = hmac.digest(bytes(32), SECRET, "sha256")
    assert KEY.derive("purpose", b"context") == hmac.digest(extracted, info + b"\1", hashlib.sha256)
    purposes = [("a", b""), ("a", b"b"), ("ab", b""), ("b", b"")]
    assert len({KEY.derive(*purpose) for purpose in purposes}) == len(purposes)


def test_an_authenticator_is_not_sent() -> None:
    with pytest.raises(TypeError, match="send the key of the run"):
        pickle.dumps(Authenticator(KEY))
    with pytest.raises(TypeError, match="send the key of the run"):
        copy.copy(Authenticator(KEY))


def test_no_nonce_comes_twice() -> None:
    auth = Authenticator(KEY)
    with ThreadPoolExecutor(8) as pool:
        stamps = list(pool.map(lambda _: auth.new_stamp(), range(2000)))
    assert len(set(stamps)) == len(stamps)
    assert auth.new_stamp().writer != Authenticator(KEY).new_stamp().writer


def test_a_forked_process_has_nonces_of_its_own() -> None:
    auth = Authenticator(KEY)
    ours = auth.new_stamp()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, auth.new_stamp().writer)
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) != ours.writer
    assert auth.new_stamp() == Stamp(ours.writer, ours.number + 1)
    os.close(read)
    os.close(write)


def test_a_tag_is_that_of_the_standard() -> None:
    """AES-256-GCM over associated data alone, under the key of the writer."""
    auth, stamp = Authenticator(KEY), Stamp(b"w" * 16, 7)
    nonce = (7).to_bytes(8, "big") + (3).to_bytes(4, "big")
    assert auth.tag(stamp, 3, b"ab", b"c") == AESGCM(KEY.derive("segments", b"w" * 16)).encrypt(nonce, b"", b"abc")


@given(st.binary(max_size=300), st.integers(0, 10_000), st.integers(0, 3))
def test_tags_of_other_bytes_places_and_runs_differ(data: bytes, number: int, block: int) -> None:
    auth, stamp = Authenticator(KEY), Stamp(b"w" * 16, number)
    tags = {
        auth.tag(stamp, block, data),
        auth.tag(stamp, block + 1, data),
        auth.tag(stamp, block, data + b"\0"),
        auth.tag(Stamp(b"w" * 16, number + 1), block, data),
        auth.tag(Stamp(b"x" * 16, number), block, data),
        Authenticator(RunKey(b"o" * 32)).tag(stamp, block, data),
    }
    assert len(tags) == 6


@pytest.mark.parametrize("num_bytes", [0, 1, 63, 64, 65, 640, 1000])
def test_the_blocks_of_a_body_have_a_tag_each(num_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "BLOCK_BYTES", 64)
    auth = Authenticator(KEY)
    stamp, body = auth.new_stamp(), os.urandom(num_bytes)
    tags = auth.tag_blocks(stamp, memoryview(body))
    assert tags == b"".join(auth.tag(stamp, 1 + i, body[64 * i : 64 * i + 64]) for i in range(-(-num_bytes // 64)))


def test_too_much_for_one_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    assert authentication.BLOCK_BYTES <= authentication._MAX_CALL_BYTES == 2**31 - 1
    monkeypatch.setattr(authentication, "_MAX_CALL_BYTES", 10)
    auth = Authenticator(KEY)
    with pytest.raises(WireError, match="too many for one tag"):
        auth.tag(auth.new_stamp(), 0, b"x" * 11)


def test_the_keys_of_many_writers_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "_MAX_WRITERS", 3)
    auth = Authenticator(KEY)
    first = auth.tag(Stamp(bytes(16), 1), 0, b"x")
    for number in range(1, 20):
        auth.tag(Stamp(number.to_bytes(16, "big"), 1), 0, b"x")
    assert len(auth._ciphers) == 3
    assert auth.tag(Stamp(bytes(16), 1), 0, b"x") == first
