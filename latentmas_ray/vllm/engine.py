"""vLLM as an engine that writes texts: `LLMEngine` in this process, stepped by the caller's thread."""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from itertools import count
from typing import Any, Literal

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import ActorError, first_line
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.vllm.connector import MEMORY_KEY
from latentmas_ray.vllm.paged_memory import check_memory
from latentmas_ray.vllm.registry import REGISTRY, WriteStats
from latentmas_ray.vllm.sampler import STREAM_KEY, RandomStream
from latentmas_ray.writing.text_engine import TextEnd, TextOutput, TextRequest

Sampler = Literal["counter", "engine"]

_PLACEHOLDER = 0  # a token id that every model has; it is never computed
_ENDS: dict[str, TextEnd] = {"stop": "stop", "length": "length"}


class VllmTextEngine:
    """See `writing.text_engine.TextEngine`. Created by `vllm.load.load_text_engine`.

    A question whose memory vLLM did not read as it was offered ends with an error, and none of its tokens is returned.
    """

    def __init__(
        self,
        llm: LLMEngine,
        *,
        spec: KVCacheSpec,
        chat: ChatTokenizer,
        model_name: str,
        device: str,
        max_positions: int | None,
        max_running: int,
        sampler: Sampler,
    ) -> None:
        self.spec, self.chat, self.model_name, self.device = spec, chat, model_name, device
        self.max_positions, self.max_running, self.sampler = max_positions, max_running, sampler
        self._llm: LLMEngine | None = llm
        self._running: set[str] = set()
        self._salts = count()

    @property
    def write_stats(self) -> WriteStats:
        """What was written into the paged cache since the process started."""
        return REGISTRY.stats

    def can_start(self, request: TextRequest) -> bool:
        """Whether a row of the batch is free. vLLM itself queues a question for which it has no blocks."""
        return len(self._running) < self.max_running

    def start(self, request: TextRequest) -> None:
        """See `TextEngine`."""
        memory = request.memory
        num_memory_tokens = 0 if memory is None else memory.num_tokens
        prompt: dict[str, Any] = {"prompt_token_ids": [_PLACEHOLDER] * num_memory_tokens + list(request.prompt_ids)}
        if memory is not None and num_memory_tokens:
            check_memory(memory, self.spec)
            # vLLM knows cached blocks by their token ids, and all memories have the same placeholders.
            prompt["cache_salt"] = f"memory {next(self._salts)}"
            REGISTRY.add(request.key, memory, self.spec.rope)
        try:
            self._engine().add_request(
                request.key, prompt, self._parameters(request, has_memory=bool(num_memory_tokens))
            )
        except Exception as error:
            REGISTRY.release(request.key)
            raise ActorError(f"vLLM did not take question {request.question_id}: {first_line(error)}") from error
        self._running.add(request.key)

    def step(self) -> list[TextOutput]:
        """See `TextEngine`. Raises ActorError if vLLM raises: it cannot continue after that."""
        llm = self._engine()
        if not self._running:
            return []
        try:
            outputs = llm.step()
        except Exception as error:
            self._llm = None
            raise ActorError(f"vLLM cannot continue: {type(error).__name__}: {first_line(error)}") from error
        failures = REGISTRY.pop_failures()
        written = [
            self._output(output, failures.pop(output.request_id, None))
            for output in outputs
            if output.request_id in self._running
        ]
        written += [
            TextOutput(key=key, end="error", error=why) for key, why in failures.items() if key in self._running
        ]
        self.abort([output.key for output in written if output.end == "error"])
        self._running.difference_update(output.key for output in written if output.end)
        return written

    def abort(self, keys: Collection[str]) -> None:
        """See `TextEngine`."""
        known = [key for key in keys if key in self._running]
        if known and self._llm is not None:
            self._llm.abort_request(known)
        self._running.difference_update(known)
        for key in known:
            REGISTRY.release(key)

    def close(self) -> None:
        """See `TextEngine`."""
        self.abort(list(self._running))
        if self._llm is not None:
            self._llm.engine_core.shutdown()
            self._llm = None

    def _engine(self) -> LLMEngine:
        if self._llm is None:
            raise ActorError(f"the vLLM engine of model {self.model_name} has ended")
        return self._llm

    def _parameters(self, request: TextRequest, *, has_memory: bool) -> SamplingParams:
        sampling, extra = request.sampling, dict[str, Any]()
        is_greedy = sampling.temperature == 0 or self.sampler == "counter"
        if has_memory:
            extra["kv_transfer_params"] = {MEMORY_KEY: request.key}
        if sampling.temperature and self.sampler == "counter":
            extra[STREAM_KEY] = RandomStream(
                question_id=request.question_id, agent=request.agent, sampling=request.sampling
            )
        return SamplingParams(
            temperature=0.0 if is_greedy else sampling.temperature,
            top_p=1.0 if is_greedy else sampling.top_p,
            seed=None if is_greedy else _own_seed(sampling, request),
            max_tokens=self._max_tokens(request),
            stop_token_ids=sorted(self.chat.stop_ids),
            ignore_eos=True,  # the end tokens are those above, as on our own engine
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            skip_reading_prefix_cache=False,  # else vLLM would skip the memory, too
            extra_args=extra or None,
        )

    def _max_tokens(self, request: TextRequest) -> int:
        """The last token has no position of its own: it is not fed."""
        limit = request.sampling.max_new_tokens
        if self.max_positions is not None:
            start = 0 if request.memory is None else request.memory.next_position
            limit = min(limit, self.max_positions - start - len(request.prompt_ids) + 1)
        return max(1, limit)

    def _output(self, output: Any, failure: str | None) -> TextOutput:
        completion = output.outputs[0]
        reason = completion.finish_reason
        if failure is not None or (output.finished and reason not in _ENDS):
            why = failure or f"vLLM ended it with finish_reason {reason!r}"
            return TextOutput(key=output.request_id, end="error", error=why)
        ids: Sequence[int] = completion.token_ids
        if reason == "stop":
            ids = ids[:-1] if ids and ids[-1] in self.chat.stop_ids else ids
        return TextOutput(key=output.request_id, token_ids=tuple(ids), end=_ENDS[reason] if output.finished else None)


def _own_seed(sampling: Sampling, request: TextRequest) -> int:
    """A seed for vLLM's own sampler: every question has its own stream, as with the project's."""
    text = "\x1f".join((str(sampling.seed), request.question_id, request.agent))
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little")
