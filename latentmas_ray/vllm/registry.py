"""The memories of questions that vLLM writes, where its connector finds them.

vLLM makes the connector itself, from the name of its module, so both meet in a registry of this module. In the process
of an engine nothing is copied or sent for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from latentmas_ray.memory import RopeSpec
from latentmas_ray.writing.text_engine import QuestionMemory

Ropes = Sequence[RopeSpec | None]  # of the layers


@dataclass(kw_only=True)
class WriteStats:
    """What was written into the paged cache. Bytes are of keys and values as they are stored."""

    num_loads: int = 0  # more than the memories where questions were preempted
    num_tokens: int = 0
    written_bytes: int = 0
    staged_bytes: int = 0  # of those, bytes that were copied once more on the way: rotated, joined or laid out anew
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class RegisteredMemory:
    """A question's memory, and the RoPE of each layer's keys."""

    memory: QuestionMemory
    ropes: Ropes


class MemoryRegistry:
    """Memories by the keys of their requests. They stay until their requests have ended, because a request that is
    preempted reads its memory again. Thread-safe."""

    def __init__(self) -> None:
        self.stats = WriteStats()
        self._lock = Lock()
        self._memories: dict[str, RegisteredMemory] = {}
        self._failures: dict[str, str] = {}
        self._begun: set[str] = set()

    def __len__(self) -> int:
        return len(self._memories)

    def add(self, key: str, memory: QuestionMemory, ropes: Ropes) -> None:
        """Register the memory of a new request."""
        with self._lock:
            assert key not in self._memories, f"request {key} has a memory already"
            self._memories[key] = RegisteredMemory(memory=memory, ropes=ropes)

    def get(self, key: str) -> RegisteredMemory | None:
        """Return a request's memory; None if there is none."""
        return self._memories.get(key)

    def release(self, key: str) -> None:
        """Release a request's memory. Unknown keys are ignored."""
        with self._lock:
            self._memories.pop(key, None)

    def fail(self, key: str, reason: str) -> None:
        """Mark a request as one that must not be answered: its memory was not read. The first reason is kept."""
        with self._lock:
            self._failures.setdefault(key, reason)

    def begin(self, key: str) -> None:
        """Note that a request has blocks: the next step reads its prompt."""
        with self._lock:
            self._begun.add(key)

    def pop_begun(self) -> set[str]:
        """Return the requests that have begun since the last call."""
        with self._lock:
            begun, self._begun = self._begun, set()
            return begun

    def pop_failures(self) -> dict[str, str]:
        """Return why requests failed since the last call, by key."""
        with self._lock:
            failures, self._failures = self._failures, {}
            return failures


REGISTRY = MemoryRegistry()
