"""Serves an application with uvicorn until a signal ends it.

The first SIGTERM or SIGINT drains: no new request is taken, those that run go to their end, at most for a bound. A
second one stops at once, and so does the first while the models are being loaded.
"""

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from latentmas_ray.errors import ConfigError
from latentmas_ray.serve.reload import Reloader, TopologyList
from latentmas_ray.serve.start_signals import StartSignals, end_process
from latentmas_ray.serve.teams.endpoint import Endpoint
from latentmas_ray.units import format_seconds

_KEEP_ALIVE_SECONDS = 75  # longer than the usual 60 s of proxies, which else reuse a connection that is closed
_TICKS_PER_SECOND = 10
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class DrainingServer(uvicorn.Server):
    """A server that says what it waits for when a signal ends it."""

    def __init__(self, config: uvicorn.Config, endpoint: Endpoint, tell: Callable[[str], None]) -> None:
        """`tell` gets lines for the user. It is called in handlers of signals, whose errors would end what drains: a
        line that cannot be written (its reader has gone, or another one is being written) is lost instead."""
        super().__init__(config)
        self._endpoint = endpoint

        def say(line: str) -> None:
            with suppress(OSError, ValueError, RuntimeError):
                tell(line)

        self._tell = say

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals that end it; they are not raised again, since the end was in order."""
        if threading.current_thread() is not threading.main_thread():  # others cannot handle any
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._handle_signals()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle_signals(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self.handle_exit)

    async def on_tick(self, counter: int) -> bool:
        """Once a second, and at each tick while it loads, take the signals again: Ray, which may connect in another
        thread at any time, handles SIGTERM below Python and ends the process 3 s later."""
        is_due = counter % _TICKS_PER_SECOND == 0 or not self._endpoint.teams.is_ready
        if is_due and threading.current_thread() is threading.main_thread():
            self._handle_signals()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain, or stop at once at the second signal."""
        name = signal.Signals(sig).name
        if not self._endpoint.teams.is_ready and not self.should_exit:  # at the end they are not ready, either
            # Nothing runs, and what loads in another thread cannot be stopped. Ray's processes end with this one.
            self._tell(f"{name}: stopped while the models were being loaded")
            end_process()
        if self.should_exit:
            self.force_exit = True
            self._tell(f"{name} again: stopped at once")
            return
        self.should_exit = True
        self._endpoint.drain()
        count, most = self._endpoint.num_open, format_seconds(float(self.config.timeout_graceful_shutdown or 0))
        waits = f"waiting at most {most} for {count} request{'' if count == 1 else 's'}; a second signal stops at once"
        self._tell(f"{name}: no new requests are taken; " + (waits if count else "none runs"))


def run_server(
    app: FastAPI,
    *,
    host: str,
    port: int,
    drain_seconds: float,
    send_seconds: float,
    tell: Callable[[str], None],
    on_ready: Callable[[int], None],
    topologies: TopologyList | None = None,
    start: StartSignals | None = None,
) -> None:
    """Serve `app` (which does not load: `make_app`) until a signal. The models are loaded while `/health` is answered.

    `on_ready` gets the port, which the system chooses if `port` is 0, once the models are loaded. `tell` gets lines for
    the user. With `topologies` SIGHUP reads them again; while the models are loaded, or before, as `start` has seen,
    after that. A connection on which the client takes nothing for
    `send_seconds`, although there is something, is closed.
    Raises ConfigError for an address that cannot be used, and what `ServedTeams.start` raises.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    listener = listen(host, port, send_seconds=send_seconds, backlog=config.backlog)
    server = DrainingServer(config, app.state.endpoint, tell)

    async def serve() -> None:
        reloader = None if topologies is None else Reloader(app.state.endpoint, topologies, tell)
        if reloader is not None:
            reloader.install(wanted=start is not None and start.has_hung_up)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        loading = asyncio.create_task(app.state.endpoint.teams.start())
        try:
            await asyncio.wait((serving, loading), return_when=asyncio.FIRST_COMPLETED)
            if loading.done() and loading.exception() is None:
                on_ready(listener.getsockname()[1])
                if reloader is not None:
                    reloader.reload_if_wanted()
            else:
                server.should_exit = True
            await serving
        finally:
            if not loading.done():
                loading.cancel()
        if loading.done() and not loading.cancelled():
            await loading  # raises its error

    try:
        asyncio.run(serve())
    finally:
        if start is not None:
            start.is_over = True
        listener.close()


def listen(host: str, port: int, *, send_seconds: float, backlog: int = 2048) -> socket.socket:
    """Return a socket that listens: with SO_REUSEADDR two servers could bind the same port, but only one listens.

    The system closes its connections whose client takes nothing for `send_seconds` of what is there, where it has such
    a limit (Linux). Raises ConfigError for an address that cannot be used, and for what is no name at all: an empty one
    would be every address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Asyncio sets TCP_NODELAY where the protocol is named. Without it a token waits for the client's delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(send_seconds * 1000)))
        listener.bind((check_host(host), port))
        listener.listen(backlog)
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError):
            raise _unusable(host, port, error) from error
        raise
    return listener


def _unusable(host: str, port: int, error: OSError) -> ConfigError:
    reason = error.strerror or error
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return ConfigError("host", host, f"it must be an address or a name of this machine: {reason}")
    return ConfigError("port", port, f"{host} cannot be listened on: {reason}")


def check_host(host: str) -> str:
    """Return `host`. Raises ConfigError for what is no name at all."""
    try:
        is_name = bool(host.strip() and host.encode("idna"))
    except UnicodeError:
        is_name = False
    if not is_name:
        raise ConfigError("host", host, "it must be an address or a name of this machine, as 127.0.0.1 or 0.0.0.0")
    return host
