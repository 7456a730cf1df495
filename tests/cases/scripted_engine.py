"""An engine without a model that writes what the prompts say. Ray's workers import this module, so it needs nothing
that only tests have.

A prompt is `write N`, then what else is to happen: `error` after N tokens, `refuse` the memory (`refuse1`: on rank 1),
`sleep SECONDS` in each step, or `die`, `exit`, `hang` in the first step. The last three happen as long as the file
`armed` is there.
"""

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from latentmas_ray.errors import CacheError, SegmentError
from latentmas_ray.memory import KVCacheSpec, RopeSpec
from latentmas_ray.parallel.ranks import ALONE, Ranks
from latentmas_ray.writing.text_engine import TextOutput, TextRequest
from latentmas_ray.writing.text_runner import TextRunner

SPEC = KVCacheSpec.uniform(
    architecture="StandIn",
    num_layers=8,
    num_kv_heads=8,
    head_dim=64,
    hidden_size=2,
    dtype="float32",
    rope=RopeSpec("default", (1.0,)),
    weights_revision="stand-in",
)
DEEDS = ("die", "exit", "hang")


class ByteChat:
    """A tokenizer whose tokens are bytes. Without a template a text may end at a question of its own."""

    def __init__(self, *, has_template: bool = True) -> None:
        self.has_template = has_template

    def encode(self, messages: Sequence[Mapping[str, str]], template: Mapping[str, Any], suffix: str) -> list[int]:
        return list("".join([*(message["content"] for message in messages), suffix]).encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()


def text_of(prompt: str, count: int, memory: float = 0.0) -> str:
    """What is written for a prompt, after memory whose first number is `memory`."""
    seed = sum(prompt.encode()) + int(memory)
    return bytes(97 + (seed + index) % 26 for index in range(count)).decode()


@dataclass
class ScriptedEngine:
    """Implements `TextEngine`; it records when questions start and how many run in each step."""

    max_running: int = 4
    armed: Path | None = None
    spec: KVCacheSpec = SPEC
    chat: Any = field(default_factory=ByteChat)
    max_positions: int | None = None
    positions_bound: str = ""
    device: str = "cpu"
    model_name: str = "scripted"
    copies_memory: bool = False
    text: str | None = None  # written instead of what the prompt gives
    started: list[str] = field(default_factory=list)  # question ids
    requests: list[TextRequest] = field(default_factory=list)  # that have started, without their memory
    num_running: list[int] = field(default_factory=list)  # in each step
    is_closed: bool = False
    queued: set[str] = field(default_factory=set)  # keys of questions that steps do not advance
    refuses_at: int | None = None  # there is room for so many questions, which `can_start` does not know
    _running: dict[str, tuple[TextRequest, str, int]] = field(default_factory=dict)

    def can_start(self, request: TextRequest) -> bool:
        return True

    def start(self, request: TextRequest) -> None:
        prompt = self.chat.decode(request.prompt_ids)
        if {"refuse", f"refuse{self.spec.shard.rank}"}.intersection(prompt.split()):
            raise SegmentError("this memory cannot be read")
        if self.refuses_at is not None and len(self._running) >= self.refuses_at:
            raise CacheError("there is no room")
        memory = 0.0
        if request.memory is not None and request.memory.parts:
            memory = float(request.memory.parts[0].kv_LCHTD.flatten()[0])
        count = min(int(prompt.split()[1]), request.sampling.max_new_tokens)
        self.started.append(request.question_id)
        self.requests.append(replace(request, memory=None, inputs=None))
        self._running[request.key] = (request, self.text or text_of(prompt, count, memory), 0)

    def step(self) -> list[TextOutput]:
        self.num_running.append(len(self._running))
        outputs = []
        for key, (request, text, count) in list(self._running.items()):
            if key in self.queued:
                continue
            prompt = self.chat.decode(request.prompt_ids)
            self._misbehave(prompt)
            words = prompt.split()
            if "sleep" in words:
                time.sleep(float(words[words.index("sleep") + 1]))
            if count == len(text):
                del self._running[key]
                if "error" in words:
                    outputs.append(TextOutput(key=key, end="error", error="it went\nwrong"))
                    continue
                is_cut = count == request.sampling.max_new_tokens
                outputs.append(TextOutput(key=key, end="length" if is_cut else "stop"))
            else:
                self._running[key] = (request, text, count + 1)
                outputs.append(TextOutput(key=key, token_ids=(text.encode()[count],)))
        return outputs

    def abort(self, keys: Collection[str]) -> None:
        for key in keys:
            self._running.pop(key, None)

    def close(self) -> None:
        self.is_closed = True

    def _misbehave(self, prompt: str) -> None:
        deed = next((deed for deed in DEEDS if deed in prompt.split()), None)
        if deed is None or self.armed is None or not self.armed.exists():
            return
        self.armed.unlink()
        if deed == "exit":
            os._exit(1)
        if deed == "hang":
            while True:
                time.sleep(60.0)
        raise RuntimeError("the device is gone\nfor ever")


def scripted_runner(max_running: int = 4, armed: Path | None = None, ranks: Ranks = ALONE) -> TextRunner:
    """What an actor loads."""
    return TextRunner(engine=ScriptedEngine(max_running, armed, SPEC.of_shard(ranks.shard)))
