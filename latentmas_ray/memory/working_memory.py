"""`Memory`: the working memory of the agents of one question, as an object to store, merge, save and send."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from latentmas_ray.errors import MemoryInputError, SegmentError
from latentmas_ray.memory.chunk import SegmentChunk
from latentmas_ray.memory.memory_segment import MemorySegment
from latentmas_ray.memory.merge import MergedLayout, merge_layout
from latentmas_ray.memory.spec import WHOLE, KVCacheSpec
from latentmas_ray.memory.wire import decode_chunk, encode_chunk, from_raw, raw_bytes
from latentmas_ray.paths import expand_home
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.topology.graph import MAX_LATENT_CHAIN, MAX_MEMORY_NODES
from latentmas_ray.units import format_bytes

Wire = Mapping[
    str, Sequence[tuple[bytes, np.ndarray]]
]  # by agent: the chunks of its segment, each a header and KV bytes


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Memory:
    """The working memory of the agents that answered one question, in CPU memory. Immutable.

    `reads` is the tree of agents: it defines in which order and from which positions a reader reads the segments.
    `texts` holds what agents wrote instead of handing over memory, in the order of the reader's prompt. Either all
    segments have KV or none has. Can be pickled and compared.

    Raises SegmentError if the fields contradict each other.
    """

    model: str
    question: str
    reads: tuple[AgentMemory, ...]
    segments: Mapping[str, MemorySegment]
    texts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.segments and not self.texts:
            raise SegmentError("a memory needs at least one agent")
        for name in (*self.tree, *self.segments, *self.texts):
            if not name or not name.isprintable():
                raise SegmentError(f"an agent cannot be called {name!r}")
        for name in (*self.tree, *self.segments):
            if name not in self.segments or name not in self.tree:
                missing = "segment" if name in self.tree else "place among the agents"
                raise SegmentError(f"the memory of agent {name!r} has no {missing}")
        if len({segment.has_kv for segment in self.segments.values()}) > 1:
            raise SegmentError("either all segments of a memory have their KV, or none has")
        self.merged_layout()  # raises if segments come from different models

    @cached_property
    def tree(self) -> Mapping[str, AgentMemory]:
        """The agents with memory, each with what it read; agents come before their readers."""
        found: dict[str, AgentMemory] = {}
        num_nodes = 0

        def visit(node: AgentMemory, depth: int) -> None:
            nonlocal num_nodes
            num_nodes += 1
            if depth > MAX_LATENT_CHAIN or num_nodes > MAX_MEMORY_NODES:
                raise SegmentError(f"the memory of agent {node.agent!r} is read through too many other agents")
            for read in node.reads:
                visit(read, depth + 1)
            known = found.setdefault(node.agent, node)
            if [read.agent for read in known.reads] != [read.agent for read in node.reads]:
                raise SegmentError(f"agent {node.agent!r} appears twice and read different memories")

        for root in self.reads:
            visit(root, 1)
        return found

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents whose segments it holds, in reading order."""
        return tuple(self.tree)

    @property
    def spec(self) -> KVCacheSpec | None:
        """The spec that a reading model must have; None for a memory of texts alone."""
        return next((segment.spec for segment in self.segments.values()), None)

    @property
    def has_kv(self) -> bool:
        """Whether it holds KV; otherwise a reader computes it from the recompute inputs."""
        return all(segment.has_kv for segment in self.segments.values())

    @property
    def num_tokens(self) -> int:
        """Tokens and latent thoughts in a reader's cache before its own prompt."""
        return sum(segment.num_tokens for segment in self.segments.values())

    @property
    def num_latent_thoughts(self) -> int:
        return sum(segment.num_latent_thoughts for segment in self.segments.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of KV, or of the recompute inputs without KV."""
        return sum(segment.num_bytes for segment in self.segments.values())

    @property
    def num_positions(self) -> int:
        """The position at which a reader's own prompt begins; at least `num_tokens`."""
        return self.merged_layout().next_positions[0]

    def positions(self) -> dict[str, tuple[int, int]]:
        """The positions [first, stop) of each agent's segment for a reader."""
        first = {item.agent: self.segments[item.agent].start + item.shifts[0] for item in self.merged_layout().segments}
        return {agent: (start, start + self.segments[agent].num_tokens) for agent, start in first.items()}

    def merged_layout(self) -> MergedLayout:
        """The positions of all segments for a reader. Moves no bytes."""
        return merge_layout(self.reads, {name: segment.meta for name, segment in self.segments.items()}, 1)

    def without_kv(self) -> "Memory":
        """The same memory with recompute inputs alone: many times smaller; its reader recomputes the KV."""
        return replace(self, segments={name: segment.without_kv() for name, segment in self.segments.items()})

    def check_fits(self, spec: KVCacheSpec, model: str) -> None:
        """Raises MemoryInputError, which names what differs, unless the model with this name and spec (or the whole
        model of this shard) wrote this memory."""
        difference = self.spec and spec.of_shard(WHOLE).difference(self.spec)
        if difference:
            expected = f"this model wrote the memory, and {model} cannot read it: {difference}"
            raise MemoryInputError("working memory", self.model, expected)

    @classmethod
    def merge(cls, memories: "Sequence[Memory]") -> "Memory":
        """Merge several memories as parallel branches, which a reader reads in this order.

        Agents with the same name and different memory get a number: `planner-2`, `planner-3`. Equal segments are stored
        once. The result has KV if all memories have it. Raises SegmentError for an empty list, MemoryInputError for
        anything that is not a Memory, IncompatibleMemoryError for memories of different models.
        """
        return combine(memories)

    def save(self, path: str | Path, *, kv: bool = True) -> None:
        """Write one safetensors file that only its owner can read; without `kv`, with recompute inputs alone.

        The file holds the prompts and what the agents thought about them. It is written completely or not at all.
        Raises OSError if it cannot be written.
        """
        from latentmas_ray.memory.files import save_memory

        whole_path = Path(expand_home("memory", str(path), MemoryInputError))
        save_memory(self if kv else self.without_kv(), whole_path)

    @staticmethod
    def load(path: str | Path) -> "Memory":
        """Read a file that `save` wrote. Raises MemoryInputError for any other or damaged file."""
        from latentmas_ray.memory.files import load_memory

        return load_memory(Path(expand_home("memory", str(path), MemoryInputError)))

    @classmethod
    def from_chunks(
        cls, chunks: Mapping[str, Sequence[SegmentChunk]], question_index: int = 0, **fields: Any
    ) -> "Memory":
        """Build the memory of one question from a batch's chunks, by agent and in order; copies the bytes.

        Chunks of several tensor-parallel ranks are joined. `fields` are the other fields of this class. If one segment
        has recompute inputs alone, the KV of the others is dropped. Raises SegmentError if a chunk is missing.
        """
        segments = {agent: MemorySegment.from_chunks(own, question_index) for agent, own in chunks.items()}
        if not all(segment.has_kv for segment in segments.values()):
            segments = {agent: segment.without_kv() for agent, segment in segments.items()}
        return cls(segments=segments, **fields)

    @classmethod
    def from_wire(cls, wire: Wire, question_index: int = 0, *, checks_digest: bool = True, **fields: Any) -> "Memory":
        """`from_chunks` for encoded chunks, whose bytes may change afterwards. Raises WireError for damaged ones."""
        chunks = {
            agent: [decode_chunk(header, from_raw(body), checks_digest=checks_digest) for header, body in own]
            for agent, own in wire.items()
        }
        return cls.from_chunks(chunks, question_index, **fields)

    def to_chunks(self) -> dict[str, SegmentChunk]:
        """Each agent's segment as one chunk, in reading order; shares their bytes."""
        return {agent: self.segments[agent].to_chunk() for agent in self.agents}

    def to_wire(self, *, with_digest: bool = True) -> dict[str, tuple[bytes, np.ndarray]]:
        """`to_chunks`, encoded: headers, and views of the KV."""
        encoded = {agent: encode_chunk(chunk, with_digest=with_digest) for agent, chunk in self.to_chunks().items()}
        return {agent: (header, raw_bytes(body)) for agent, (header, body) in encoded.items()}

    def __eq__(self, other: object) -> bool:
        """Whether all fields and bytes are equal."""
        if not isinstance(other, Memory):
            return NotImplemented
        return (
            (self.model, self.question, self.reads) == (other.model, other.question, other.reads)
            and list(self.texts.items()) == list(other.texts.items())
            and self.segments == other.segments
        )

    __hash__ = None  # type: ignore[assignment]  # its segments can only be compared

    def __repr__(self) -> str:
        agents = ", ".join(self.agents)
        kind = "KV" if self.has_kv else "recompute inputs"
        size = f"{format_bytes(self.num_bytes)} of {kind}"
        return f"Memory(model={self.model!r}, agents=({agents}), {self.num_tokens} tokens, {size})"


MAX_NAME_CHARS = 64
_Agent = tuple[MemorySegment | None, str | None, tuple[AgentMemory, ...]]  # what it handed over, wrote and read


def combine(memories: Sequence[Memory]) -> Memory:
    """See `Memory.merge`."""
    if isinstance(memories, Memory) or not all(isinstance(memory, Memory) for memory in memories):
        raise MemoryInputError("memories", memories, "it must be a list of Memory objects")
    if not memories:
        raise SegmentError("no memory to merge")
    specs = [memory.spec for memory in memories if memory.spec is not None]
    for spec in specs[1:]:
        specs[0].check_same(spec)
    if not all(memory.has_kv for memory in memories):
        memories = [memory.without_kv() for memory in memories]
    merged = _Merged({name for memory in memories for name in (*memory.tree, *memory.texts)})
    for memory in memories:
        merged.add(memory)
    return Memory(
        model=memories[0].model,
        question="\n".join(dict.fromkeys(memory.question for memory in memories)),
        reads=tuple(merged.reads),
        segments=merged.segments,
        texts=merged.texts,
    )


class _Merged:
    """The memories that were merged so far. New names avoid all names of all memories."""

    def __init__(self, names: set[str]) -> None:
        self.reads: dict[AgentMemory, None] = {}
        self.segments: dict[str, MemorySegment] = {}
        self.texts: dict[str, str] = {}
        self._names = names
        self._agents: dict[str, _Agent] = {}
        self._tree: dict[str, AgentMemory] = {}

    def add(self, memory: Memory) -> None:
        renamed: dict[str, str] = {}
        for name in dict.fromkeys((*memory.tree, *memory.texts)):
            node, segment, text = memory.tree.get(name), memory.segments.get(name), memory.texts.get(name)
            reads = () if node is None else tuple(self._tree[renamed[read.agent]] for read in node.reads)
            new = self._name_for(name, (segment, text, reads), set(renamed.values()))
            renamed[name] = new
            self._agents[new] = segment, text, reads
            if segment is not None:
                self.segments[new], self._tree[new] = segment, AgentMemory(new, reads)
        self.texts.update({renamed[name]: text for name, text in memory.texts.items()})
        self.reads.update(dict.fromkeys(self._tree[renamed[root.agent]] for root in memory.reads))

    def _name_for(self, name: str, agent: _Agent, own: Collection[str]) -> str:
        """The name itself, the name of an equal agent from another memory (not one of `own`), or a new name."""
        if name not in self._agents:
            return name
        numbered = re.compile(rf"{re.escape(name)}(-\d+)?")
        for other, known in self._agents.items():
            if numbered.fullmatch(other) and other not in own and known == agent:
                return other
        number = 2
        while (new := f"{name[: MAX_NAME_CHARS - len(f'-{number}')]}-{number}") in self._agents or new in self._names:
            number += 1
        return new
