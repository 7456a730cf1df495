"""A process with vLLM in it: on a CPU vLLM changes its whole process, so it never runs in that of the tests."""

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from latentmas_ray.vllm.load import load_text_engine
from latentmas_ray.writing.text_engine import TextEngine, TextRequest

if TYPE_CHECKING:
    from latentmas_ray.vllm.engine import VllmTextEngine

_START_SECONDS = 600.0  # a bound for a busy machine, not an expectation


@dataclass
class Written:
    """What became of one question."""

    token_ids: list[int] = field(default_factory=list)
    end: str | None = None
    error: str = ""


def write_all(engine: TextEngine, requests: Sequence[TextRequest], num_started: int = 0) -> dict[str, Written]:
    """Write all texts; questions start as soon as there is room. The first `num_started` have started already."""
    waiting, written = list(requests[num_started:]), {request.key: Written() for request in requests}
    while any(one.end is None for one in written.values()):
        while waiting and engine.can_start(waiting[0]):
            engine.start(waiting.pop(0))
        for output in engine.step():
            one = written[output.key]
            one.token_ids += output.token_ids
            one.end, one.error = output.end, output.error
    return written


class VllmProcess:
    """An engine in a process of its own. Use it as a context manager."""

    def __init__(self, **arguments: Any) -> None:
        """Load the engine with these arguments of `load_text_engine`."""
        context = get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, arguments), daemon=True)
        self._process.start()
        other.close()
        self._receive()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return `function(engine, *arguments)`, computed there; raises what it raises."""
        self._pipe.send_bytes(pickle.dumps((function, arguments)))
        return self._receive()

    def write(self, requests: Sequence[TextRequest]) -> dict[str, Written]:
        """Write all texts."""
        written: dict[str, Written] = self.call(write_all, requests)
        return written

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        deadline = time.monotonic() + _START_SECONDS
        while not self._pipe.poll(1.0):
            if not self._process.is_alive():
                raise RuntimeError(f"the process with vLLM ended: exit code {self._process.exitcode}")
            if time.monotonic() > deadline:
                raise RuntimeError("the process with vLLM does not answer")
        is_error, value = pickle.loads(self._pipe.recv_bytes())
        if is_error:
            raise value
        return value

    def __enter__(self) -> "VllmProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _serve(pipe: Connection, arguments: dict[str, Any]) -> None:
    engine: VllmTextEngine | None = None
    try:
        try:
            engine = load_text_engine(**arguments)
        except Exception as error:  # noqa: BLE001 - raised again in the process of the tests
            pipe.send_bytes(pickle.dumps((True, error)))
            return
        pipe.send_bytes(pickle.dumps((False, None)))
        while True:
            try:
                function, values = pickle.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                return
            try:
                answer = (False, function(engine, *values))
            except Exception as error:  # noqa: BLE001 - as above
                answer = (True, error)
            pipe.send_bytes(pickle.dumps(answer))
    finally:
        if engine is not None:
            engine.close()
