"""vLLM as an engine that writes texts: `LLMEngine` in this process, stepped by the caller's thread.

Dimensions: T tokens, E hidden size.
"""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from itertools import count
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from latentmas_ray.config.choices import SamplerName
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import ActorError, SegmentError, TurnError, first_line
from latentmas_ray.memory import LATENT, KVCacheSpec, RecomputeInputs
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.vllm.connector import MEMORY_KEY, QUESTION_KEY
from latentmas_ray.vllm.counter_sampler import STREAM_KEY, RandomStream
from latentmas_ray.vllm.paged_memory import check_memory
from latentmas_ray.vllm.registry import REGISTRY, WriteStats
from latentmas_ray.writing.text_engine import TextEnd, TextOutput, TextRequest

_NUM_LOGPROBS = 20  # vLLM's limit, if no other is set
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
        positions_bound: str,
        max_running: int,
        sampler: SamplerName,
        takes_inputs: bool = False,
    ) -> None:
        self.spec, self.chat, self.model_name, self.device = spec, chat, model_name, device
        self.max_positions, self.positions_bound = max_positions, positions_bound
        self.max_running, self.sampler = max_running, sampler
        self._takes_inputs = takes_inputs
        self._num_embeddings = int(llm.model_config.get_vocab_size())
        self._llm: LLMEngine | None = llm
        self._running: set[str] = set()
        self._queued: set[str] = set()
        self._salts = count()
        self._groups: dict[str, tuple[str, set[str]]] = {}  # of running requests: the salt of a group, and their keys

    @property
    def copies_memory(self) -> bool:
        """Whether memory is copied when a question starts. It is not: after a preemption it is read again."""
        return False

    @property
    def write_stats(self) -> WriteStats:
        """What was written into the paged cache since the process started."""
        return REGISTRY.stats

    @property
    def queued(self) -> set[str]:
        """See `TextEngine`: vLLM has not found blocks for them yet."""
        return self._queued & self._running

    def can_start(self, request: TextRequest) -> bool:
        """Whether a row of the batch is free. vLLM itself queues a question for which it has no blocks."""
        return len(self._running) < self.max_running

    def start(self, request: TextRequest) -> None:
        """See `TextEngine`."""
        self._start(request)

    def first_logprobs(self, request: TextRequest) -> dict[int, float]:
        """Return the log probabilities of the likeliest first tokens. Nothing else may run. Raises ActorError."""
        self._start(request, num_logprobs=_NUM_LOGPROBS)
        while True:
            outputs = self._step()
            if failures := REGISTRY.pop_failures():
                raise ActorError(f"vLLM did not read a memory: {failures}")
            for output in outputs:
                self._running.discard(output.request_id)
                return {token: one.logprob for token, one in output.outputs[0].logprobs[0].items()}

    def _start(self, request: TextRequest, num_logprobs: int | None = None) -> None:
        memory = request.memory if request.memory is not None and request.memory.num_tokens else None
        prompt: dict[str, Any] = {"prompt_token_ids": list(request.prompt_ids)}
        if request.inputs is not None:
            prompt = {"prompt_embeds": self._embed_all(request.inputs, request.prompt_ids)}
        if memory is not None:
            check_memory(memory, self.spec)
            prompt["prompt_token_ids"] = [_PLACEHOLDER] * memory.num_tokens + prompt["prompt_token_ids"]
            # vLLM knows cached blocks by their token ids, and all memories have the same placeholders.
            # Those of one group are the same, and its blocks are shared while one of them runs.
            prompt["cache_salt"] = self._salt(request)
            REGISTRY.add(request.key, memory, self.spec.ropes)
        try:
            parameters = self._parameters(request, has_memory=memory is not None, num_logprobs=num_logprobs)
            self._engine().add_request(request.key, prompt, parameters)
        except (VLLMClientError, ValueError) as error:  # a request that it refuses
            REGISTRY.release(request.key)
            self._forget([request.key])
            raise TurnError(f"vLLM refuses question {request.question_id}: {first_line(error)}") from error
        self._running.add(request.key)
        self._queued.add(request.key)

    def _salt(self, request: TextRequest) -> str:
        """What tells the memory of a request from all others in the prefix cache."""
        fresh = f"memory {next(self._salts)}"
        if not request.group:
            return fresh
        salt, keys = self._groups.setdefault(request.group, (fresh, set()))
        keys.add(request.key)
        return salt

    def _forget(self, keys: Collection[str]) -> None:
        """Forget requests that have ended, and groups of which none is left."""
        self._running.difference_update(keys)
        for group, (_, members) in list(self._groups.items()):
            members.difference_update(keys)
            if not members:
                del self._groups[group]

    def step(self) -> list[TextOutput]:
        """See `TextEngine`. Raises ActorError if vLLM raises: it cannot continue after that."""
        self._engine()
        outputs = self._step() if self._running else []
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
        self._forget({output.key for output in written if output.end})
        return written

    def _step(self) -> list[Any]:
        llm = self._engine()
        try:
            outputs: list[Any] = llm.step()
        except Exception as error:
            self._llm = None
            self.abort(list(self._running))
            raise ActorError(f"vLLM cannot continue: {type(error).__name__}: {first_line(error)}") from error
        self._queued = (self._queued - REGISTRY.pop_begun()) & self._running
        return outputs

    def abort(self, keys: Collection[str]) -> None:
        """See `TextEngine`."""
        known = [key for key in keys if key in self._running]
        if known and self._llm is not None:
            self._llm.abort_request(known)
        self._forget(known)
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

    @torch.inference_mode()
    def _embed_all(self, inputs: RecomputeInputs, prompt_ids: Sequence[int]) -> Tensor:
        """The inputs of the agents before and the prompt as one sequence of embeddings [T, E]. Raises SegmentError."""
        if not self._takes_inputs:
            raise SegmentError("this engine takes memory as KV alone, not as recompute inputs: use transfer kv")
        is_thought_T = inputs.token_ids_T == LATENT
        ids_T = torch.cat([inputs.token_ids_T.masked_fill(is_thought_T, 0), torch.tensor(prompt_ids)])
        if (largest := int(ids_T.max())) >= self._num_embeddings:
            raise SegmentError(f"token {largest} was fed to an agent; the model has {self._num_embeddings}")
        embeds_TE = self._embed(ids_T)
        embeds_TE[: len(is_thought_T)][is_thought_T] = inputs.latents_NE.to(embeds_TE)
        return embeds_TE

    def _embed(self, ids_T: Tensor) -> Tensor:
        """Input embeddings of token ids, on the CPU, where vLLM wants them. A step of all ranks together."""

        def embed(model: Any) -> Tensor:
            embeds_TE: Tensor = model.embed_input_ids(ids_T.to(next(model.parameters()).device))
            return embeds_TE.cpu()

        embeds_TE: Tensor = self._engine().apply_model(embed)[0]
        return embeds_TE.clone()

    def _parameters(self, request: TextRequest, *, has_memory: bool, num_logprobs: int | None) -> SamplingParams:
        sampling, extra = request.sampling, dict[str, Any]()
        transfer = {QUESTION_KEY: request.key}
        is_greedy = sampling.temperature == 0 or self.sampler == "counter"
        if has_memory:
            transfer[MEMORY_KEY] = request.key
        extra["kv_transfer_params"] = transfer
        if sampling.temperature and self.sampler == "counter":
            extra[STREAM_KEY] = RandomStream(
                question_id=request.question_id, agent=request.agent, sampling=request.sampling
            )
        return SamplingParams(
            temperature=0.0 if is_greedy else sampling.temperature,
            top_p=1.0 if is_greedy else sampling.top_p,
            # The sampler of vLLM's CPU build fails with a generator of its own for a row.
            seed=None if is_greedy or self.device == "cpu" else _own_seed(sampling, request),
            max_tokens=self._max_tokens(request),
            stop_token_ids=sorted(self.chat.stop_ids),
            ignore_eos=True,  # the end tokens are those above, as on our own engine
            detokenize=False,
            logprobs=num_logprobs,
            output_kind=RequestOutputKind.DELTA,
            skip_reading_prefix_cache=False,  # else vLLM would skip the memory, too
            extra_args=extra,
        )

    def _max_tokens(self, request: TextRequest) -> int:
        """The last token has no position of its own: it is not fed."""
        limit = request.sampling.max_new_tokens
        if self.max_positions is not None:
            start = 0 if request.memory is None else request.memory.next_position
            start += 0 if request.inputs is None else sum(request.inputs.lengths)
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
