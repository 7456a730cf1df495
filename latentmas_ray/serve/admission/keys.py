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
from pathlib import Path
from typing import Final, NamedTuple

from latentmas_ray.errors import ConfigError
from latentmas_ray.serve.api.errors import ApiError

ENVIRONMENT_NAME: Final = "LATENTMAS_API_KEYS"
MAX_FILE_BYTES: Final = 1_000_000
_PREFIX: Final = "lm-"
_KEY_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_ENTRY: Final = re.compile(r"(?P<name>[^:\s]*):sha256:(?P<digest>[0-9a-f]{64})", re.ASCII)
_FORM: Final = "it must be NAME:sha256:HEX, as `latentmas serve-key NAME` prints it"
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


class ApiKeys:
    """The keys that are accepted."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        """`digests` by name, each the SHA-256 of a key in hexadecimal digits."""
        self._digests = {name: digest.encode() for name, digest in digests.items()}

    def __len__(self) -> int:
        return len(self._digests)

    @classmethod
    def from_file(cls, path: str) -> "ApiKeys":
        """Read a file. Raises ConfigError, its field `api_keys`, for a file that is not there, that others may change
        or read, or that has a line of another form."""
        return cls._parsed(enumerate(_read(path).split("\n"), start=1), f"api_keys: {path}", "line")

    @classmethod
    def from_environment(cls, text: str) -> "ApiKeys":
        """Read the value of the environment variable. Raises ConfigError, its field the variable's name."""
        return cls._parsed(enumerate(text.split(","), start=1), ENVIRONMENT_NAME, "entry")

    @classmethod
    def _parsed(cls, lines: Iterable[tuple[int, str]], field: str, what: str) -> "ApiKeys":
        digests: dict[str, str] = {}
        for number, line in lines:
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            match = _ENTRY.fullmatch(text)
            if match is None:
                raise ConfigError(field, f"{what} {number}", _FORM)
            name, digest = match["name"], match["digest"]
            if _NAME.fullmatch(name) is None:
                raise ConfigError(field, f"{what} {number}", _NAME_FORM)
            if name in digests:
                raise ConfigError(field, name, f"names must differ; {what} {number} has it again")
            if digest in digests.values():
                raise ConfigError(field, name, f"{what} {number} has the key of another name")
            digests[name] = digest
        if not digests:
            raise ConfigError(field, "no key", f"{_FORM}; or leave it out to serve without keys")
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


def _read(path: str) -> str:
    """Return the text of a file of keys. Raises ConfigError."""

    def refused(expected: str) -> ConfigError:
        return ConfigError("api_keys", path, expected)

    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise refused("it must be a file")
            if status.st_mode & _SHARED:
                raise refused("others may change or read it; allow only its owner, as chmod 600 does")
            if status.st_uid not in (0, os.geteuid()):
                raise refused("it must belong to the user of the server, or to root")
            if status.st_size > MAX_FILE_BYTES:
                raise refused(f"it must have at most {MAX_FILE_BYTES} bytes")
            return file.read(MAX_FILE_BYTES).decode()
    except UnicodeDecodeError:
        raise refused("it must be text in UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise refused(
            f"it cannot be read: {reason}; it must be a file with one {_FORM.split(',')[0][11:]} a line"
        ) from None
