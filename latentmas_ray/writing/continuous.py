"""Our own engine for texts: a question joins and leaves the batch between two steps, whatever the others do.

A step is one forward over packed rows: one token of each question that writes, and the next parts of the prompts of
those that have just started. They share one reading of the weights.

Dimensions: B rows (questions), N new tokens of all rows, E hidden size, V vocabulary.
"""

import sys
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from latentmas_ray.errors import ActorError, CacheError, ContextLengthError, SegmentError, first_line
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.memory.buffers import empty_bytes
from latentmas_ray.models import LanguageModel
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.sampling import greedy, sample, uniform
from latentmas_ray.writing.cache_room import CacheRoom
from latentmas_ray.writing.question_memory import write_memory
from latentmas_ray.writing.text_engine import QuestionMemory, TextOutput, TextRequest

PREFILL_CHUNK = 1024  # prompt tokens per step, of all rows together: bounds activations, and how long others wait
_CPU = torch.device("cpu")
_NO_MEMORY = QuestionMemory(parts=(), num_tokens=0, next_position=0)


@dataclass(eq=False)
class _RunningQuestion:
    """A question that runs. Its index in the engine's list is its row in the cache, unless it is set aside."""

    request: TextRequest
    number: int  # the smaller, the earlier it has started
    position: int  # of its next input
    num_read: int = 0  # tokens of its prompt
    token_ids: list[int] = field(default_factory=list)
    model: "_RunningQuestion | None" = None  # of its group: this one waits until that has read its prompt

    @property
    def num_unread(self) -> int:
        """Tokens of its prompt that are still to be read."""
        return len(self.request.prompt_ids) - self.num_read

    def inputs(self, count: int) -> Sequence[int]:
        """Its next `count` inputs: of its prompt, or the token that it wrote last."""
        if self.num_unread:
            return self.request.prompt_ids[self.num_read : self.num_read + count]
        return self.token_ids[-1:]

    def advance(self, count: int) -> None:
        """Count inputs that were read."""
        self.position += count
        self.num_read += min(count, self.num_unread)


class ContinuousEngine:
    """Writes texts with a model that is not divided. Implements `TextEngine`.

    It has a cache of its own, so turns on the same model may run between two steps. `start` copies the memory, which
    need not be kept.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        max_running: int,
        max_cache_bytes: int | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        """At most `max_running` questions run at the same time, and so many that their full lengths take no more than
        `max_cache_bytes` of KV (None: without a bound). One question runs even if it needs more."""
        assert lm.ranks.shard.world_size == 1, "a divided model writes in static batches"
        assert min(max_running, prefill_chunk) >= 1, f"{max_running} questions, {prefill_chunk} prompt tokens"
        self._lm = lm
        self._room = CacheRoom(lm, max_running, max_cache_bytes)
        self._prefill_chunk = prefill_chunk
        self._rows: list[_RunningQuestion] = []
        # Questions that had to leave the cache for others, and their memory there, on the CPU.
        self._aside: list[tuple[_RunningQuestion, QuestionMemory]] = []
        self._num_started = 0
        self._full_at = sys.maxsize  # so many rows run, and there was no room for another

    @property
    def spec(self) -> KVCacheSpec:
        return self._lm.spec

    @property
    def device(self) -> str:
        return self._lm.device_name

    @property
    def chat(self) -> ChatTokenizer:
        return self._lm.chat

    @property
    def model_name(self) -> str:
        return self._lm.name

    @property
    def copies_memory(self) -> bool:
        return True

    @property
    def max_positions(self) -> int | None:
        return self._lm.max_positions

    @property
    def positions_bound(self) -> str:
        return self._lm.positions_bound

    @property
    def max_running(self) -> int:
        """See `TextEngine`. It falls if so many have turned out not to fit the device."""
        return self._room.max_rows

    @property
    def cache_bytes(self) -> int:
        """Bytes of KV that are reserved now."""
        return self._room.num_bytes

    @property
    def max_cache_bytes(self) -> int | None:
        """The bound on the KV of questions that run at the same time; None: there is none."""
        return self._room.max_bytes

    def can_start(self, request: TextRequest) -> bool:
        if self._aside or len(self._rows) >= self._full_at:  # those that are set aside are older
            return False
        return not self._rows or self._room.fits([*self._requests, request])

    @property
    def queued(self) -> list[str]:
        """See `TextEngine`: those that are set aside, and those of whose prompts nothing was read."""
        unread = [row.request.key for row in self._rows if not row.num_read]
        return [*(row.request.key for row, _ in self._aside), *unread]

    @torch.inference_mode()
    def start(self, request: TextRequest) -> None:
        """See `TextEngine`."""
        assert request.prompt_ids, "a prompt has at least one token"
        if request.inputs is not None:
            raise SegmentError("this engine reads memory as KV, not as recompute inputs")
        memory = request.memory or _NO_MEMORY
        memory.check(self.spec)
        num_known = len(request.prompt_ids)
        if self.max_positions is not None and memory.next_position + num_known > self.max_positions:
            raise ContextLengthError(
                f"memory up to position {memory.next_position} and {num_known} prompt tokens do not fit the "
                f"{self.max_positions} positions of model {self.model_name}: use fewer latent steps or a shorter prompt"
            )
        copied = replace(request, memory=replace(memory, parts=(), layered=()))
        question = _RunningQuestion(copied, self._num_started, memory.next_position, model=self._find_model(request))
        self._add_row(question, memory, memory.num_tokens + num_known)
        self._num_started += 1

    def _find_model(self, request: TextRequest) -> _RunningQuestion | None:
        """The first running question of the same group, whose memory can be copied: not from layers with states, which
        have taken in its prompt, too."""
        if self.spec.has_states:
            return None
        members = [row for row in self._rows if request.group and row.request.group == request.group]
        return min(members, key=lambda row: row.number, default=None)

    def _add_row(self, question: _RunningQuestion, memory: QuestionMemory, num_slots: int) -> None:
        """Give a question a row, with its memory in it. Raises CacheError if there is no room."""
        try:
            self._room.reserve(num_slots, [*self._requests, question.request])
            cache = self._room.cache
            row = cache.add_row()
            try:
                if question.model is not None:
                    cache.repeat_slots(self._rows.index(question.model), [row], 0, memory.num_tokens)
                else:
                    write_memory(cache, row, memory)
            except BaseException as error:
                cache.drop_row(row)
                if isinstance(error, torch.OutOfMemoryError):
                    raise CacheError(f"there is no room for a question's memory: {first_line(error)}") from error
                raise
        except CacheError:
            if self._rows:  # alone, it is the question that is too large
                self._full_at = len(self._rows)
            raise
        cache.extend([*cache.lengths[:row], memory.num_tokens])
        self._rows.append(question)
        self._full_at = sys.maxsize

    @torch.inference_mode()
    def step(self) -> list[TextOutput]:
        """See `TextEngine`. If the device has not enough memory, the question that started last is set aside until
        another one ends, and from then on no more run than those that are left. Alone, it ends with an error."""
        if refused := self._take_back():
            return [refused]
        if not self._rows:
            return []
        try:
            self._room.reserve(max(self._room.cache.lengths) + 1, self._requests)
            written = self._write_tokens()
        except (CacheError, torch.OutOfMemoryError) as error:
            return self._set_youngest_aside(error)
        except RuntimeError as error:  # of torch: the device is lost
            raise ActorError(f"model {self.model_name} cannot write: {first_line(error)}") from error
        outputs = {index: self._accept(self._rows[index], token) for index, token in written.items()}
        self._drop([index for index, output in outputs.items() if output.end is not None])
        return list(outputs.values())

    @torch.inference_mode()
    def abort(self, keys: Collection[str]) -> None:
        self._drop([index for index, row in enumerate(self._rows) if row.request.key in keys])
        self._aside = [one for one in self._aside if one[0].request.key not in keys]

    def close(self) -> None:
        self._rows, self._aside = [], []
        self._room.close()

    @property
    def _requests(self) -> list[TextRequest]:
        return [row.request for row in self._rows]

    def _write_tokens(self) -> dict[int, int]:
        """One forward over all rows; returns the next token of each row whose prompt has been read.

        Nothing counts as read before its tokens are sampled, which takes much memory: after a failure the same inputs
        are fed again, to the same slots.
        """
        self._share_prompts()
        counts = self._counts()
        hidden_NE = self._forward(counts)
        writing, ends = [], []
        for index, (row, count, end) in enumerate(zip(self._rows, counts, accumulate(counts), strict=True)):
            if count and row.num_unread <= count:
                writing.append(index)
                ends.append(end - 1)
        tokens: list[int] = []
        if writing:
            last_BE = hidden_NE if len(ends) == len(hidden_NE) else hidden_NE[ends]
            tokens = self._sample([self._rows[index] for index in writing], last_BE)
        self._room.cache.end_step()
        for row, count in zip(self._rows, counts, strict=True):
            row.advance(count)
        self._share_prompts()  # before a text ends with its first token
        return dict(zip(writing, tokens, strict=True))

    def _share_prompts(self) -> None:
        """Give the prompt of a row that was read to the rows that wait for it, without the last token: each reads that
        itself, for its first logits. A row whose model has left reads its prompt itself."""
        cache = self._room.cache
        for index, row in enumerate(self._rows):
            if row.model is None or (row.model in self._rows and row.model.num_unread):
                continue
            if row.model in self._rows:
                first, count = cache.lengths[index], row.num_unread - 1
                cache.repeat_slots(self._rows.index(row.model), [index], first, first + count)
                cache.extend([*cache.lengths[:index], first + count, *cache.lengths[index + 1 :]])
                row.advance(count)
            row.model = None

    def _counts(self) -> list[int]:
        """How many inputs of each row the next forward reads: one token of those that write, and as many prompt tokens
        as fit, the earliest questions first; none of rows that wait for another's prompt."""
        counts = [0 if row.num_unread else 1 for row in self._rows]
        num_left = self._prefill_chunk
        unread = [index for index, row in enumerate(self._rows) if row.num_unread and row.model is None]
        for index in sorted(unread, key=lambda index: self._rows[index].number):
            counts[index] = min(self._rows[index].num_unread, num_left)
            num_left -= counts[index]
        return counts

    def _forward(self, counts: Sequence[int]) -> Tensor:
        """The last hidden states [N, E] of one forward over the next inputs of each row."""
        lm, cache = self._lm, self._room.cache
        with_counts = list(zip(self._rows, counts, strict=True))
        ids = [token for row, count in with_counts for token in row.inputs(count)]
        positions = [row.position + offset for row, count in with_counts for offset in range(count)]
        cache.begin_step(counts, [row.position for row in self._rows])
        embeds_NE = lm.embed(torch.tensor(ids))
        hidden_NE = lm.hidden_states(embeds_NE, torch.tensor(positions, device=lm.device), cache)
        return hidden_NE.to(lm.device)

    def _sample(self, rows: Sequence[_RunningQuestion], last_BE: Tensor) -> list[int]:
        """The next token of each row; rows of the same settings are sampled together."""
        logits_BV = self._lm.logits(last_BE)
        by_settings: dict[tuple[float, float], list[int]] = {}
        for index, row in enumerate(rows):
            sampling = row.request.sampling
            settings = (sampling.temperature, sampling.top_p) if sampling.temperature else (0.0, 1.0)
            by_settings.setdefault(settings, []).append(index)
        tokens = [0] * len(rows)
        for (temperature, top_p), members in by_settings.items():
            own_BV = logits_BV if len(members) == len(rows) else logits_BV[members]
            if temperature == 0:
                drawn_B = greedy(own_BV)
            else:
                numbers = [_next_uniform(rows[index]) for index in members]
                uniforms_B = torch.tensor(numbers, dtype=torch.float64, device=own_BV.device)
                drawn_B = sample(own_BV, uniforms_B, temperature, top_p)
            for index, token in zip(members, drawn_B.tolist(), strict=True):
                tokens[index] = token
        return tokens

    def _accept(self, row: _RunningQuestion, token: int) -> TextOutput:
        """Append a token to a row's text, unless it ends the text."""
        key = row.request.key
        if token in self.chat.stop_ids:
            return TextOutput(key=key, end="stop")
        row.token_ids.append(token)
        is_full = len(row.token_ids) >= row.request.sampling.max_new_tokens or row.position == self.max_positions
        return TextOutput(key=key, token_ids=(token,), end="length" if is_full else None)

    def _set_youngest_aside(self, error: Exception) -> list[TextOutput]:
        """Take the question that started last out of the cache: it continues later. A question that is alone ends."""
        youngest = max(range(len(self._rows)), key=lambda index: self._rows[index].number)
        row = self._rows[youngest]
        row.model = None
        if len(self._rows) == 1:
            self._drop([youngest])
            return [self._refused(row, error)]
        traceback.clear_frames(error.__traceback__)  # they hold what there was no memory for
        length = self._room.cache.lengths[youngest]
        outputs: list[TextOutput] = []
        try:
            cache = self._room.cache
            kv = cache.copy_out([0], [length], _on_cpu, first_row=youngest, has_states=True)
            memory = QuestionMemory.of(kv, row.position, cache.positions_of(youngest, 0, length))
            self._aside.append((row, memory))
        except torch.OutOfMemoryError as again:  # not even to copy it
            outputs.append(self._refused(row, again))
        self._drop([youngest])
        self._room.max_rows = len(self._rows)
        return outputs

    def _take_back(self) -> TextOutput | None:
        """Let questions that were set aside continue, the oldest first, as many as there is room for. Return the end of
        one that has no room alone."""
        self._aside.sort(key=lambda one: one[0].number)
        while self._aside:
            row, memory = self._aside[0]
            is_full = len(self._rows) >= self._full_at or not self._room.fits([*self._requests, row.request])
            if self._rows and is_full:
                return None
            try:
                self._add_row(row, memory, memory.num_tokens + max(1, row.num_unread))
            except CacheError as error:
                if self._rows:
                    return None
                self._aside.pop(0)
                return self._refused(row, error)
            self._aside.pop(0)
        return None

    def _refused(self, row: _RunningQuestion, error: Exception) -> TextOutput:
        """The end of a question that has no room even alone."""
        why = self._room.refusal(1, self._room.most_slots(row.request))
        cause = "" if isinstance(error, CacheError) else f" ({first_line(error)})"
        return TextOutput(key=row.request.key, end="error", error=why + cause)

    def _drop(self, indices: Sequence[int]) -> None:
        """Remove rows, here and in the cache; the last ones take their places."""
        for index in sorted(indices, reverse=True):
            self._room.cache.drop_row(index)
            self._rows[index] = self._rows[-1]
            self._rows.pop()
        if not self._rows:
            self._room.trim()


def _on_cpu(num_bytes: int, _: torch.device) -> Tensor:
    return empty_bytes(num_bytes, _CPU)


def _next_uniform(row: _RunningQuestion) -> float:
    """The random number of a row's next token."""
    request = row.request
    return uniform(request.sampling.seed, request.question_id, request.agent, len(row.token_ids))
