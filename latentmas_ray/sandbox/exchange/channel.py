"""Messages between two processes over a pair of pipes: each is one line of JSON."""

import os

from latentmas_ray.sandbox.exchange.wire import MAX_FRAME_BYTES, ExchangeError, Structure, dumps, loads

_CHUNK_BYTES = 1 << 16


class ChannelClosedError(Exception):
    """The other process has ended, or closed its end."""


class MessageChannel:
    """One end of a connection."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._rest = b""

    def send(self, message: Structure) -> None:
        """Send one message. Raises ChannelClosedError, and RecursionError for one that is nested too deeply."""
        data = memoryview(dumps(message) + b"\n")
        try:
            while data:
                data = data[os.write(self._writing, data) :]
        except OSError as error:
            raise ChannelClosedError from error

    def receive(self) -> Structure:
        """Return the next message. Raises ChannelClosedError and ExchangeError."""
        parts, size = [self._rest], len(self._rest)
        while b"\n" not in parts[-1]:
            try:
                chunk = os.read(self._reading, _CHUNK_BYTES)
            except OSError as error:
                raise ChannelClosedError from error
            if not chunk:
                raise ChannelClosedError
            size += len(chunk)
            if size > MAX_FRAME_BYTES:
                raise ExchangeError(f"a message of more than {MAX_FRAME_BYTES >> 20} MiB")
            parts.append(chunk)
        end, _, self._rest = parts[-1].partition(b"\n")
        return loads(b"".join([*parts[:-1], end]))
