"""The real application behind a port of this machine, in a thread of this process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from latentmas_ray.config.run import make_config
from latentmas_ray.serve.admission.limits import ServeLimits
from latentmas_ray.serve.app import make_app
from latentmas_ray.serve.teams.endpoint import Endpoint
from latentmas_ray.serve.teams.served import ServedTeams


@dataclass(frozen=True)
class RunningServer:
    """A server that takes requests."""

    url: str  # the base URL
    endpoint: Endpoint

    @property
    def teams(self) -> ServedTeams:
        return self.endpoint.teams

    @property
    def num_open(self) -> int:
        """Requests that are not over."""
        return self.endpoint.num_open


@contextmanager
def running_server(limits: ServeLimits | None = None, **fields: object) -> Iterator[RunningServer]:
    """Serve a team of these fields of `RunConfig`. Ends with all questions cancelled and all memory freed."""
    teams = ServedTeams(make_config({"model": "tiny", "temperature": 0, **fields}))
    app = make_app(teams, limits)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="on", log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended while it started"
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield RunningServer(f"http://127.0.0.1:{port}/v1", app.state.endpoint)
    finally:
        server.should_exit = True
        thread.join()
