"""API keys. Only their SHA-256 is stored, which is enough for keys of 256 random bits, as `make_key` makes them.

An entry is `NAME:sha256:HEX`. A file has one a line, with empty lines and comments (`# …`); the environment variable
has them with commas in between. Messages name the line or the key's name, and never what else stands there: it may be
a key itself.
"""

import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import IO, Final, NamedTuple

from latentmas_ray.errors import ConfigError
from latentmas_ray.serve.api.errors import ApiError

ENVIRONMENT_NAME: Final = "LATENTMAS_API_KEYS"
MAX_FILE_BYTES: Final = 1_000_000
_PREFIX: Final = "lm-"
_KEY_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_ENTRY: Final = re.compile(r"(?P<name>[^:\s]*):sha256:(?P<digest>[0-9a-f]{64})", re.ASCII)
_ENTRY_FORM: Final = "NAME:sha256:HEX"
_FORM: Final = f"it must be {_ENTRY_FORM}, as `latentmas serve-key NAME` prints it"
_NAME_FORM: Final = "a key's name must have 1 to 64 letters, digits, or characters of _ . -"
_SHARED: Final = stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH
_BEARER: Final = re.compile(r"\s*Bearer\s+(?P<key>\S+)\s*", re.IGNORECASE)


class NewKey(NamedTuple):
    """A key, which is shown once, and the entry that recognises it."""

    key: str
    entry: str


def make_key(name: str) -> NewKey:
    """Return a new random key. Raises ConfigError for a name that no entry can have."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError("NAME", name, _NAME_FORM)
    key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    return NewKey(key, f"{name}:sha256:{_digest(key)}")


def add_key(path: str, name: str) -> str:
    """Add the entry of a new key to a file, which is made, for its owner alone, if there is none. Returns the key.
    Raises ConfigError as `make_key` does, for a name that the file has already, and, its field `file`, for a file that
    a server would refuse."""
    made = make_key(name)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
    try:
        with os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0) as file:
            text = _checked_text(file, path)
            if any(map(_entry_of, text.split("\n"))) and name in ApiKeys.parse(text, path).names:
                expected = f"{path} has a key of this name; remove its line first, or choose another"
                raise ConfigError("NAME", name, expected)
            before = "" if not text or text.endswith("\n") else "\n"
            file.write(f"{before}{made.entry}\n".encode())
    except ConfigError as error:
        field = "file" if error.field == "api_keys" else error.field
        raise ConfigError(field, error.value, error.expected) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError("file", path, f"it cannot be written: {reason}") from None
    return made.key


class ApiKeys:
    """The keys that are accepted."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        """`digests` by name, each the SHA-256 of a key in hexadecimal digits."""
        self._digests = {name: digest.encode() for name, digest in digests.items()}

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def names(self) -> frozenset[str]:
        """Whose keys they are."""
        return frozenset(self._digests)

    @classmethod
    def from_file(cls, path: str) -> "ApiKeys":
        """Read a file. Raises ConfigError, its field `api_keys`, for a file that is not there, that others may change
        or read, or that has a line of another form."""
        return cls.parse(_read(path), path)

    @classmethod
    def parse(cls, text: str, path: str) -> "ApiKeys":
        """Read the text of a file. Raises ConfigError, its field `api_keys`, for a line of another form."""
        return cls._parsed(text.split("\n"), "api_keys", f"{path}, line")

    @classmethod
    def from_environment(cls, text: str) -> "ApiKeys":
        """Read the value of the environment variable. Raises ConfigError, its field the variable's name."""
        return cls._parsed(text.split(","), ENVIRONMENT_NAME, "entry")

    @classmethod
    def _parsed(cls, lines: Iterable[str], field: str, where: str) -> "ApiKeys":
        digests: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            if not (text := _entry_of(line)):
                continue
            match = _ENTRY.fullmatch(text)
            if match is None:
                raise ConfigError(field, f"{where} {number}", _FORM)
            name, digest = match["name"], match["digest"]
            if _NAME.fullmatch(name) is None:
                raise ConfigError(field, f"{where} {number}", _NAME_FORM)
            if name in digests:
                raise ConfigError(field, f"{where} {number}", f"names must differ, and {name} stands there already")
            if digest in digests.values():
                raise ConfigError(field, f"{where} {number}", f"{name} has the key of another name")
            digests[name] = digest
        if not digests:
            raise ConfigError(field, f"{where.partition(',')[0]} without a key", f"{_FORM}; or leave it out")
        return cls(digests)

    def name_of(self, authorization: str | None) -> str:
        """Return the name of the key in an `Authorization` header. Raises ApiError (401) without a key that is known.

        Every stored key is compared, in constant time.
        """
        if not authorization:
            raise _denied("no API key was sent; send it as `Authorization: Bearer KEY`")
        match = _BEARER.fullmatch(authorization)
        if match is None:
            raise _denied("the header Authorization must be `Bearer KEY`")
        digest, found = _digest(match["key"]).encode(), ""
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        if not found:
            raise _denied("this API key is not known here")
        return found


def _denied(message: str) -> ApiError:
    return ApiError(401, message, None, "invalid_api_key")


def _digest(key: str) -> str:
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _entry_of(line: str) -> str:
    """Return what a line has besides spaces; empty for a comment."""
    text = line.strip()
    return "" if text.startswith("#") else text


def _read(path: str) -> str:
    """Return the text of a file of keys. Raises ConfigError."""
    try:
        # Without O_NONBLOCK a named pipe would be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return _checked_text(file, path)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        expected = f"it cannot be read: {reason}; it must be a file with a {_ENTRY_FORM} on each line"
        raise ConfigError("api_keys", path, expected) from None


def _checked_text(file: IO[bytes], path: str) -> str:
    """Return the text of an open file of keys. Raises ConfigError for one that cannot be trusted, OSError."""

    def refused(expected: str) -> ConfigError:
        return ConfigError("api_keys", path, expected)

    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise refused("it must be a file")
    if status.st_mode & _SHARED:
        raise refused("others may change or read it; allow only its owner, as chmod 600 does")
    if status.st_uid not in (0, os.geteuid()):
        raise refused("it must belong to the user of the server, or to root")
    if status.st_size > MAX_FILE_BYTES:
        raise refused(f"it must have at most {MAX_FILE_BYTES} bytes")
    try:
        return file.read(MAX_FILE_BYTES).decode()
    except UnicodeDecodeError:
        raise refused("it must be text in UTF-8") from None
