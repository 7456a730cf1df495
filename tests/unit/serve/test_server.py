"""How the server ends while its models are being loaded."""

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from latentmas_ray.serve.server import DrainingServer


class EndOfProcess(BaseException):
    """Stands for the end."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of a cluster may take half an hour, and no request can run yet."""

    def end(code: int) -> None:
        raise EndOfProcess(code)

    monkeypatch.setattr(os, "_exit", end)
    said: list[str] = []
    endpoint: Any = SimpleNamespace(teams=SimpleNamespace(is_ready=False))
    server = DrainingServer(uvicorn.Config(app=lambda: None), endpoint, said.append)
    with pytest.raises(EndOfProcess) as ended:
        server.handle_exit(number, None)
    assert ended.value.args == (0,)
    assert said == [f"{number.name}: stopped while the models were being loaded"]
