"""One real server that all tests of this folder share: the team of `latentmas serve`, in one process without Ray."""

from collections.abc import Iterator

import pytest

from tests.cases.running_server import RunningServer, running_server


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    with running_server(runtime="local", dtype="float32", latent_steps=2, max_new_tokens=48) as running:
        yield running
