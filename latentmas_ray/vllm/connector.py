"""vLLM's KV connector through which working memory gets into its paged cache.

A request whose sampling parameters name a memory begins with one placeholder token for each of the memory's tokens.
The connector offers these to the scheduler as computed elsewhere, and writes the memory into their blocks before the
step that reads the prompt. vLLM loads this class by its name (`kv_connector_module_path`), one object for the scheduler
and one for the worker, in the same process.

vLLM skips external tokens in silence in some settings, and would compute the placeholders instead. So what the
scheduler takes is compared with what was offered, and a request for which they differ has failed.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed import get_tp_group
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA
from vllm.model_executor.models.utils import extract_layer_index

from latentmas_ray.errors import LatentMASError, first_line
from latentmas_ray.vllm.paged_memory import PagedLayer, PagedSpan, write_memory
from latentmas_ray.vllm.registry import REGISTRY

QUESTION_KEY = "latentmas_question"  # in `kv_transfer_params` of a request: its key in the engine
MEMORY_KEY = "latentmas_memory"  # in `kv_transfer_params` of a request: the key of its memory
NAME = "MemoryConnector"
MODULE = __name__

# What a load may raise; everything else is a mistake of ours and ends the engine.
_LOAD_ERRORS = (LatentMASError, RuntimeError, ValueError, TypeError, IndexError, OSError)


@dataclass(frozen=True, kw_only=True)
class MemoryLoad:
    """The memory that one request loads before the next step."""

    key: str
    span: PagedSpan


@dataclass(kw_only=True)
class StepLoads(KVConnectorMetadata):  # type: ignore[misc]  # vLLM's classes are untyped here
    """What the scheduler's connector tells the worker's before a step."""

    loads: list[MemoryLoad] = field(default_factory=list)


class MemoryConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Loads memory into new and resumed requests. Saves nothing."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._block_size = vllm_config.cache_config.block_size
        self._context = vllm_config.compilation_config.static_forward_context
        self._num_ranks = vllm_config.parallel_config.tensor_parallel_size
        self._offered: dict[str, int] = {}  # by request: tokens
        self._pending: list[MemoryLoad] = []
        self._layers: list[PagedLayer] = []
        self._failed_blocks: set[int] = set()

    # The scheduler's side.

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Offer the memory's tokens after those that the prefix cache has."""
        if (key := memory_key(request)) is None:
            return 0, False
        registered = REGISTRY.get(key)
        num_tokens = registered.memory.num_tokens if registered else 0
        self._offered[request.request_id] = max(0, num_tokens - num_computed_tokens)
        return self._offered[request.request_id], False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Plan the load of the tokens that were taken. A request of which other tokens were taken than were offered
        fails: raising here would end all others, too."""
        REGISTRY.begin(str((request.kv_transfer_params or {}).get(QUESTION_KEY)))
        if (key := memory_key(request)) is None:
            return
        registered = REGISTRY.get(key)
        offered = self._offered.pop(request.request_id, None)
        if registered is None:
            REGISTRY.fail(key, "its memory is not registered")
        elif num_external_tokens != offered:
            REGISTRY.fail(key, f"vLLM took {num_external_tokens} of its memory's {offered} tokens that were offered")
        elif num_external_tokens:
            stop = registered.memory.num_tokens
            (block_ids,) = blocks.get_block_ids()
            span = PagedSpan(
                first=stop - num_external_tokens, stop=stop, block_ids=list(block_ids), block_size=self._block_size
            )
            self._pending.append(MemoryLoad(key=key, span=span))

    def build_connector_meta(self, scheduler_output: Any) -> StepLoads:
        """Pass the planned loads on."""
        loads, self._pending = self._pending, []
        return StepLoads(loads=loads)

    def request_finished(self, request: Any, block_ids: Iterable[int]) -> tuple[bool, dict[str, Any] | None]:
        """Release the request's memory: from now on it cannot be preempted."""
        if (key := memory_key(request)) is not None:
            REGISTRY.release(key)
            self._offered.pop(request.request_id, None)
        return False, None

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        """Like `request_finished`, for models with several groups of blocks."""
        return self.request_finished(request, ())

    # The worker's side.

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """Find the attention layers in order."""
        names = sorted(kv_caches, key=extract_layer_index)
        self._layers = [self._context[name] for name in names]

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Write the memories of this step. A load that fails ends its request alone, and on all ranks."""
        begin, loads = time.perf_counter(), self._get_connector_metadata().loads
        failures = {number: why for number, load in enumerate(loads) if (why := _try_load(self._layers, load))}
        if loads and self._num_ranks > 1:
            failures = _of_all_ranks(failures)
        for number, why in failures.items():
            REGISTRY.fail(loads[number].key, f"its memory could not be loaded: {why}")
            self._failed_blocks.update(loads[number].span.own_blocks)
        REGISTRY.stats.seconds += time.perf_counter() - begin

    def get_block_ids_with_load_errors(self) -> set[int]:
        """The blocks that hold no memory: vLLM ends their requests and forgets the blocks."""
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing to wait for: loads are done when `start_load_kv` returns."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing is saved."""

    def wait_for_save(self) -> None:
        """Nothing is saved."""


def _try_load(layers: Sequence[PagedLayer], load: MemoryLoad) -> str | None:
    """Write a memory; return why it could not be written."""
    if (registered := REGISTRY.get(load.key)) is None:
        return "it is not registered"
    try:
        write_memory(layers, registered.memory, registered.ropes, load.span, REGISTRY.stats)
    except _LOAD_ERRORS as error:
        return first_line(error)
    return None


def _of_all_ranks(failures: Mapping[int, str]) -> dict[int, str]:
    """Return the failures of all ranks: every rank must go on with the same requests."""
    group = get_tp_group()
    gathered: list[Any] = [None] * group.world_size
    torch.distributed.all_gather_object(gathered, dict(failures), group=group.cpu_group)
    return {number: why for own in reversed(gathered) for number, why in own.items()}


def memory_key(request: Any) -> str | None:
    """Return the key of a vLLM request's memory; None for a request without memory."""
    key = (request.kv_transfer_params or {}).get(MEMORY_KEY)
    return None if key is None else str(key)
