"""The room of an engine that writes continuously: a `BatchCache` that grows with its questions, below a bound of bytes.

Rows and slots are reserved when they are needed. The bound counts what the questions may come to need, so none has to
be stopped later for another.
"""

import os
from collections.abc import Sequence

import torch

from latentmas_ray.errors import CacheError
from latentmas_ray.models import LanguageModel
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.units import format_bytes
from latentmas_ray.writing.text_engine import TextRequest

_SLOT_STEP = 256  # rows grow in steps of this many slots
_SLOT_STEP_CPU = 1024  # on a CPU a slot costs nothing until it is written
_GROWTH = 1.5  # at least: a cache that grows is copied, so it must not grow often
_KEPT_BYTES_CPU = 2**30  # on a CPU a larger cache is freed when no question is left, for others on the machine


class CacheRoom:
    """Makes the cache for one engine. `most_slots` of a request bounds what its row may hold."""

    def __init__(self, lm: LanguageModel, max_rows: int, max_bytes: int | None) -> None:
        """At most `max_rows` rows, and no more than `max_bytes` for all (None: without a bound). A single row may be
        larger."""
        self._lm = lm
        self.max_rows, self.max_bytes = max_rows, max_bytes
        self._cache: BatchCache | None = None

    @property
    def cache(self) -> BatchCache:
        """The cache; only while there are questions."""
        assert self._cache is not None, "no question has room yet"
        return self._cache

    @property
    def num_bytes(self) -> int:
        """Bytes that are reserved now."""
        return 0 if self._cache is None else self._cache.num_bytes

    def most_slots(self, request: TextRequest) -> int:
        """The slots of a question whose text becomes as long as it may."""
        memory = request.memory
        begin, position = (memory.num_tokens, memory.next_position) if memory else (0, 0)
        num_inputs = len(request.prompt_ids) + max(0, request.sampling.max_new_tokens - 1)  # the last is not read
        if (limit := self._lm.max_positions) is not None:
            num_inputs = min(num_inputs, limit - position)
        return begin + num_inputs

    def fits(self, requests: Sequence[TextRequest]) -> bool:
        """Whether these questions may run at the same time."""
        return len(requests) <= self._most_rows(max(map(self.most_slots, requests)))

    def reserve(self, num_slots: int, requests: Sequence[TextRequest]) -> None:
        """Make room for a row for each of `requests`, with at least `num_slots` slots; rows keep their tokens. Reserves
        more where there is memory for it.

        Raises CacheError if there is not enough memory; the cache is then as usable as before.
        """
        cache, num_rows = self._cache, len(requests)
        if cache is not None and cache.num_rows >= num_rows and cache.num_slots >= num_slots:
            return
        old_rows, old_slots = (0, 0) if cache is None else (cache.num_rows, cache.num_slots)
        if cache is not None and not cache.lengths:
            self._cache = cache = None  # free it first: both together may not fit
        least = num_rows, num_slots if cache is None else max(num_slots, cache.num_slots)  # rows keep their slots
        step = _SLOT_STEP_CPU if self._lm.device.type == "cpu" else _SLOT_STEP
        if num_slots > old_slots:
            old_slots = -(-max(num_slots, int(_GROWTH * old_slots)) // step) * step
        num_slots = max(num_slots, min(old_slots, max(map(self.most_slots, requests))))
        # Without questions nothing is copied, so only rows that are needed are reserved.
        wanted = max(2 * old_rows, num_rows) if num_rows > old_rows else old_rows
        num_rows = max(num_rows, min(wanted, self._most_rows(num_slots)))
        failure: Exception | None = None
        for rows, slots in dict.fromkeys([(num_rows, num_slots), least]):
            try:
                if cache is None:
                    self._cache = BatchCache(self._lm.spec, self._lm.layer_devices, rows, slots)
                else:
                    cache.resize(rows, slots)
                return
            except (torch.OutOfMemoryError, CacheError) as error:
                failure = error.with_traceback(None)  # its frames hold what there was no room for
        raise CacheError(self.refusal(*least)) from failure

    def refusal(self, num_rows: int, num_slots: int) -> str:
        """Return why so many rows of so many slots have no room: the bytes that they need, and those that are there."""
        device = self._lm.device
        if device.type == "cuda":
            num_free = torch.cuda.mem_get_info(device)[0]
            num_free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        else:
            num_free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        needed = format_bytes(num_rows * self._row_bytes(num_slots))
        return (
            f"a KV cache of {num_rows} questions × {num_slots} tokens takes {needed}, and {self._lm.device_name} has "
            f"{format_bytes(num_free)} left: use a smaller decode_batch, max_new_tokens or latent_steps"
        )

    def trim(self) -> None:
        """Free a large CPU cache that has no question: the next may come late."""
        if self._cache is None or self._cache.lengths or self._lm.device.type != "cpu":
            return
        if self._cache.num_touched_bytes > _KEPT_BYTES_CPU:
            self._cache = None

    def close(self) -> None:
        """Free the cache."""
        self._cache = None

    def _most_rows(self, num_slots: int) -> int:
        """How many rows of so many slots the bounds allow; at least one."""
        if self.max_bytes is None:
            return self.max_rows
        return max(1, min(self.max_rows, self.max_bytes // self._row_bytes(num_slots)))

    def _row_bytes(self, num_slots: int) -> int:
        spec = self._lm.spec
        return num_slots * spec.bytes_per_token + spec.state_bytes
